// TinyModel: a small model of random weights with every kind of layer (attention and delta net,
// experts with and without a shared one, a dense layer), its experts in a memory file. For tests.
#pragma once
#include <cmath>
#include <cstring>
#include <random>

#include "engine/engine.h"
#include "faulty_file.h"
#include "ops/cpu/cpu_ops.h"
#include "tracking_arena.h"

class TinyModel {
 public:
  static constexpr uint32_t kVocab = 97, kModel = 64, kHidden = 32, kExperts = 12, kTopK = 3;
  static constexpr uint32_t kLayers = 5, kMoeLayers = 4, kContext = 64, kChunk = 8;
  using MakeOps = std::function<std::unique_ptr<moeflux::ops::Ops>(
      std::unique_ptr<moeflux::ops::Ops> cpu, TinyModel& model)>;
  using MakeArena = std::function<std::shared_ptr<moeflux::base::Arena>(moeflux::base::Account&)>;
  struct Options {
    uint32_t max_slots = 0;
    int threads = 2;
    FaultyFile::Faults faults = {};
    MakeOps make_ops = {};  // around the CPU's; none: those
    uint64_t budget = 64 << 20;
    uint32_t read_threads = 4;
    MakeArena make_arena = {};  // none: a TrackingArena
    uint32_t context = kContext;
    bool read_ahead = false;
  };

  explicit TinyModel(Options options)
      : account_(options.budget),
        arena_(options.make_arena ? options.make_arena(account_)
                                  : std::make_shared<TrackingArena>(account_, 4096)) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) add_layer(layer);
    weights_->spec = {kVocab, kModel, 1e-6f, kChunk};
    weights_->embed = matrix(kVocab, kModel).weight;
    weights_->head = {vector(kModel), 1e-6f, matrix(kVocab, kModel)};
    file_ = std::make_shared<FaultyFile>(std::move(bytes_), options.faults, 512);
    std::unique_ptr<moeflux::ops::Ops> ops = std::make_unique<moeflux::ops::cpu::CpuOps>(
        *arena_, moeflux::ops::cpu::select_kernels("portable"), options.threads,
        moeflux::ops::Precision::float32);
    if (options.make_ops) ops = options.make_ops(std::move(ops), *this);
    moeflux::engine::Options engine_options;
    engine_options.read_threads = options.read_threads;
    engine_options.context = options.context;
    engine_options.max_slots = options.max_slots;
    engine_options.read_ahead = options.read_ahead;
    engine_ = std::make_unique<moeflux::engine::Engine>(
        moeflux::engine::Parts{arena_, std::move(ops), weights_, {file_}, experts_},
        engine_options);
  }

  moeflux::engine::Engine& engine() { return *engine_; }
  moeflux::base::Arena& arena() { return *arena_; }
  FaultyFile& file() { return *file_; }
  const std::vector<moeflux::store::LayerExperts>& experts() const { return experts_; }
  std::shared_ptr<moeflux::engine::Session> session() { return engine_->new_session(); }

  // Logits after every token, (tokens.size(), kVocab).
  std::vector<float> step(moeflux::engine::Session& session, std::vector<uint32_t> tokens) {
    std::vector<float> out(tokens.size() * kVocab, NAN);
    moeflux::engine::Request request{&session, tokens, true, writer(out), {}};
    engine_->step({&request, 1});
    return out;
  }
  static std::function<void(uint32_t, const float*)> writer(std::vector<float>& out) {
    return [&out](uint32_t token, const float* logits) {
      std::copy_n(logits, kVocab, out.data() + uint64_t(token) * kVocab);
    };
  }

  std::atomic<int> violations{0};  // counted by checks that run on another thread

 private:
  using Linear = moeflux::ops::Linear;

  float next() { return static_cast<float>(random_()) / 4294967296.0f * 2 - 1; }
  float* vector(uint32_t n, float scale = 1, float shift = 0) {
    weights_->memory.emplace_back(*arena_, uint64_t(n) * 4, "test weights");
    float* values = weights_->memory.back().as<float>();
    for (uint32_t i = 0; i < n; ++i) values[i] = next() * scale + shift;
    return values;
  }
  Linear matrix(uint32_t out, uint32_t in) {
    const float* values = vector(out * in, 2 / std::sqrt(static_cast<float>(in)));
    return {moeflux::quant::contiguous({out, in}, reinterpret_cast<const std::byte*>(values))};
  }
  moeflux::ops::GatedFfn ffn() {
    return {matrix(kHidden, kModel), matrix(kHidden, kModel), matrix(kModel, kHidden)};
  }

  void add_layer(uint32_t index) {
    moeflux::model::Layer layer;
    layer.ffn_norm = vector(kModel, 0.1f, 1);
    if (index % 2 == 0) {
      moeflux::ops::Attention& a = layer.attention;
      a.n_heads = 4, a.n_kv_heads = 2, a.head_dim = 16, a.rotary_dim = 8;
      a.norm = vector(kModel, 0.1f, 1);
      a.q = matrix(64, kModel), a.k = matrix(32, kModel), a.v = matrix(32, kModel);
      a.o = matrix(kModel, 64), a.gate = matrix(64, kModel);
      a.q_norm = vector(16, 0.1f, 1), a.k_norm = vector(16, 0.1f, 1);
      a.inv_freq = vector(4, 0.4f, 0.5f);
    } else {
      layer.mixer = moeflux::model::Mixer::delta_net;
      moeflux::ops::DeltaNet& d = layer.delta_net;
      d.n_key_heads = 2, d.n_value_heads = 4, d.key_dim = 16, d.value_dim = 16, d.conv_width = 4;
      d.norm = vector(kModel, 0.1f, 1);
      d.qkv = matrix(d.channels(), kModel), d.z = matrix(64, kModel), d.b = matrix(4, kModel);
      d.a = matrix(4, kModel), d.out = matrix(kModel, 64);
      d.conv = vector(d.channels() * 4), d.a_log = vector(4), d.dt_bias = vector(4);
      d.out_norm = vector(16, 0.1f, 1);
    }
    layer.is_moe = index != 2;
    if (layer.is_moe)
      add_experts(layer.moe, index != 1);
    else
      layer.dense = ffn();
    weights_->layers.push_back(layer);
  }

  void add_experts(moeflux::model::Moe& moe, bool shared) {
    moe.router = {matrix(kExperts, kModel), kExperts, kTopK, true};
    moe.has_shared = shared;
    if (shared) moe.shared = ffn(), moe.shared_gate = matrix(1, kModel);
    moe.store_layer = static_cast<uint32_t>(experts_.size());
    const auto shape = [](uint32_t out, uint32_t in) {
      return moeflux::quant::Shape{out, in, &moeflux::quant::find_format("affine4"), 32,
                                   moeflux::quant::DType::bf16};
    };
    moeflux::ops::GatedFfn& ffn = moe.experts.ffn;
    ffn = {{{shape(kHidden, kModel)}}, {{shape(kHidden, kModel)}}, {{shape(kModel, kHidden)}}};
    moeflux::store::LayerExperts layer;
    layer.n_experts = kExperts;
    for (int part = 0; part < 9; ++part) {
      const uint64_t nbytes = (ffn.*ffn.kMatrices[part / 3]).weight.shape.plane_bytes(part % 3);
      layer.parts.push_back({nbytes, 0, {}, {}});
      for (uint32_t expert = 0; expert < kExperts; ++expert) {
        layer.parts.back().file.push_back(0);
        layer.parts.back().offset.push_back(bytes_.size());
        for (uint64_t i = 0; i < nbytes; i += 2) {
          // Codes are noise; scales and biases are bf16 of about 0.03, biases around -8 scales.
          uint16_t word = static_cast<uint16_t>(random_());
          if (part % 3 == 1) word = 0x3d00 | (word & 0x7f);
          if (part % 3 == 2) word = 0xbe80 | (word & 0x7f);
          const std::byte pair[] = {std::byte(word & 255), std::byte(word >> 8)};
          bytes_.insert(bytes_.end(), pair, pair + 2);
        }
      }
    }
    moeflux::model::place_experts(layer, 1, moe.experts);
    experts_.push_back(layer);
  }

  std::mt19937 random_{7};
  moeflux::base::Account account_;
  std::shared_ptr<moeflux::base::Arena> arena_;
  std::shared_ptr<moeflux::model::Weights> weights_ = std::make_shared<moeflux::model::Weights>();
  std::vector<std::byte> bytes_;
  std::vector<moeflux::store::LayerExperts> experts_;
  std::shared_ptr<FaultyFile> file_;
  std::unique_ptr<moeflux::engine::Engine> engine_;
};
