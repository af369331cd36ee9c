// TinyModel: a small model of random weights with every kind of layer (attention and delta net,
// experts with and without a shared one, a dense layer), loaded from memory files. For tests.
#pragma once
#include "engine/engine.h"
#include "faulty_file.h"
#include "model/loader.h"
#include "ops/cpu/cpu_ops.h"
#include "spec_writer.h"
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
    bool run_ahead = true;
    uint32_t rows = 0;                      // of a pass, at most; 0: what the plan chooses
    uint32_t window = 0;                    // of the first and the last layer
    const char* first_experts = "affine4";  // of the first layer; of 8 bits: slots of two sizes
  };

  explicit TinyModel(Options options)
      : window_(options.window),
        first_experts_(options.first_experts),
        account_(options.budget),
        arena_(options.make_arena ? options.make_arena(account_)
                                  : std::make_shared<TrackingArena>(account_, 4096)) {
    const Node tree = spec();
    file_ = std::make_shared<FaultyFile>(std::move(bytes_), options.faults, 512);
    auto resident = moeflux::io::open_memory(std::move(resident_.bytes), "resident");
    experts_ = moeflux::model::load(tree, {file_, resident}, *arena_, [] {}, *weights_);
    std::unique_ptr<moeflux::ops::Ops> ops = std::make_unique<moeflux::ops::cpu::CpuOps>(
        *arena_, moeflux::ops::cpu::select_kernels("portable"), options.threads,
        moeflux::ops::Precision::float32);
    if (options.make_ops) ops = options.make_ops(std::move(ops), *this);
    moeflux::engine::Options engine_options;
    engine_options.read_threads = options.read_threads;
    engine_options.context = options.context;
    engine_options.max_slots = options.max_slots;
    engine_options.read_ahead = options.read_ahead;
    engine_options.run_ahead = options.run_ahead;
    engine_options.rows = options.rows;
    engine_ = std::make_unique<moeflux::engine::Engine>(
        moeflux::engine::Parts{arena_, std::move(ops), weights_, {file_}, experts_},
        engine_options);
  }

  moeflux::engine::Engine& engine() { return *engine_; }
  moeflux::base::Arena& arena() { return *arena_; }
  const moeflux::model::Weights& weights() const { return *weights_; }
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
  using Node = moeflux::model::Node;

  Node spec() {
    SpecWriter writer(resident_, kModel);
    writer.number("vocab", kVocab);
    writer.number("d_model", kModel);
    writer.number("eps", 1e-6f);
    writer.number("chunk", kChunk);
    for (const char* name : {"embed", "head"}) writer.matrix(name, {}, kVocab, kModel);
    writer.vector("final_norm", nullptr, kModel);
    Node::List layers;
    for (uint32_t index = 0; index < kLayers; ++index) layers.push_back(layer(index));
    writer.dict["layers"] = {std::move(layers)};
    return {std::move(writer.dict)};
  }

  Node layer(uint32_t index) {
    SpecWriter writer(resident_, kModel);
    for (const char* name : {"norm", "ffn_norm"}) writer.vector(name, nullptr, kModel);
    moeflux::ops::Mixer mixer;
    if (index % 2 == 0) {
      auto& a = mixer.emplace<moeflux::ops::Attention>();
      a.n_heads = 4, a.n_kv_heads = 2, a.head_dim = 16, a.rotary_dim = 8;
      if (index != 2) a.window = window_;
    } else {
      auto& d = mixer.emplace<moeflux::ops::DeltaNet>();
      d.n_key_heads = 2, d.n_value_heads = 4, d.key_dim = 16, d.value_dim = 16, d.conv_width = 4;
    }
    std::visit(
        [&](const auto& of_kind) {
          writer.dict["mixer"] = {std::string(of_kind.kKind)};
          writer.part(of_kind.kKind, of_kind);
        },
        mixer);
    writer.dict["ffn"] = {std::string(index == 2 ? "dense" : "moe")};
    if (index == 2)
      writer.part("dense", ffn());
    else
      writer.dict["moe"] = moe(index != 1, index == 0 ? first_experts_ : "affine4");
    return {std::move(writer.dict)};
  }

  static moeflux::ops::GatedFfn ffn() {
    moeflux::ops::GatedFfn ffn;
    ffn.gate.weight.shape.out = kHidden;
    return ffn;
  }

  Node moe(bool shared, const char* format) {
    SpecWriter writer(resident_, kModel);
    moeflux::ops::Router{{}, kExperts, kTopK, true}.fields(writer);
    if (shared) {
      writer.part("shared", ffn());
      writer.matrix("shared_gate", {}, 1, kModel);
    }
    ExpertWriter experts{bytes_, resident_.random, format};
    ffn().fields(experts);
    writer.dict["experts"] = {std::move(experts.dict)};
    return {std::move(writer.dict)};
  }

  struct ExpertWriter {  // of experts, which lie in the first file
    std::vector<std::byte>& bytes;
    std::mt19937& random;
    const char* format;
    Node::Dict dict = {};
    const uint32_t d_model = kModel;

    void number(const char* name, float value) { dict[name] = {double(value)}; }
    void number(const char* name, bool value) { dict[name] = {value}; }
    void choice(const char* name, auto value, const auto& names) {
      dict[name] = {std::string(names[static_cast<size_t>(value)])};
    }
    void matrix(const char* name, const moeflux::ops::Linear&, uint64_t out, uint64_t in) {
      const moeflux::quant::Shape shape{uint32_t(out), uint32_t(in),
                                        &moeflux::quant::find_format(format), 32,
                                        moeflux::quant::DType::bf16};
      Node::Dict matrix = SpecWriter::shape(out, in, format, 32, "BF16");
      for (size_t plane = 0; plane < moeflux::quant::kPlanes; ++plane) {
        moeflux::store::Part part{shape.plane_bytes(plane), 0, {}, {}};
        for (uint32_t expert = 0; expert < kExperts; ++expert) {
          part.file.push_back(0);
          part.offset.push_back(bytes.size());
          for (uint64_t i = 0; i < part.nbytes; i += 2) {
            // Codes are noise; scales and biases are bf16 of about 0.03, biases around -8 scales.
            uint16_t word = static_cast<uint16_t>(random());
            if (plane == 1) word = 0x3d00 | (word & 0x7f);
            if (plane == 2) word = 0xbe80 | (word & 0x7f);
            bytes.push_back(std::byte(word & 255));
            bytes.push_back(std::byte(word >> 8));
          }
        }
        matrix[shape.format->planes[plane].name] = {std::move(part)};
      }
      dict[name] = {std::move(matrix)};
    }
  };

  uint32_t window_;
  const char* first_experts_;
  SpecWriter::File resident_{1};
  moeflux::base::Account account_;
  std::shared_ptr<moeflux::base::Arena> arena_;
  std::shared_ptr<moeflux::model::Weights> weights_ = std::make_shared<moeflux::model::Weights>();
  std::vector<std::byte> bytes_;
  std::vector<moeflux::store::LayerExperts> experts_;
  std::shared_ptr<FaultyFile> file_;
  std::unique_ptr<moeflux::engine::Engine> engine_;
};
