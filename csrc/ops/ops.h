// The stages of a forward pass over n rows, and nothing of layers, files or sessions' lifetimes.
// A row is one token of one session. All activations are f32, row-major.
// A stage is complete when its call returns; a device that queues would return tickets instead
// (docs/architecture.md says why the CPU does not).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/quant.h"

namespace moeflux::ops {

// How exact products with weights are (docs/precision.md). Whatever is chosen, router, gates,
// norms, recurrent state and logits are computed at float32.
enum class Precision : uint8_t { float32, bfloat16, int8 };

// The KV cache of a layer: keys and values (blocks of kCacheBlock positions, n_kv_heads, 16 *
// cache_width(head_dim)) numbers each, laid out within a key head's part of a block as the
// implementation likes. A copy of whole blocks is a copy of their positions.
inline constexpr uint32_t kCacheBlock = 16;
constexpr uint32_t cache_width(
    uint32_t head_dim) {  // numbers of a head and position: whole vectors
  return (head_dim + 15) / 16 * 16;
}
constexpr quant::DType cache_dtype(Precision precision) {
  return precision == Precision::float32 ? quant::DType::f32 : quant::DType::bf16;
}

struct Linear {
  quant::Matrix weight;
  const float* bias = nullptr;  // (out), or none
};

// Consecutive rows of one session, at positions position, position + 1, ...
struct Segment {
  uint32_t row = 0, n = 0, position = 0;
  std::byte* keys = nullptr;  // attention: the cache from position 0 on
  std::byte* values = nullptr;
  const float* state_in = nullptr;  // delta net: (n_value_heads, value_dim, key_dim)
  float* state_out = nullptr;       // may be state_in
  const float* conv_in = nullptr;   // (conv_width - 1, channels): the last inputs, oldest first
  float* conv_out = nullptr;        // may be conv_in
};

struct Attention {
  const float* norm = nullptr;    // (d_model)
  Linear q, k, v, o, gate;        // q, gate (n_heads*head_dim, d_model); gate.weight.out 0: none
  const float* q_norm = nullptr;  // (head_dim) or none
  const float* k_norm = nullptr;
  const float* inv_freq = nullptr;  // (rotary_dim / 2)
  uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0, rotary_dim = 0;
  float rope_scale = 1;  // multiplies cos and sin (YaRN's attention factor)
  float eps = 1e-6f;
  uint64_t cache_block_bytes(Precision precision) const {  // of keys, and as many of values
    return uint64_t(kCacheBlock) * n_kv_heads * cache_width(head_dim) *
           quant::dtype_bytes(cache_dtype(precision));
  }
};

struct DeltaNet {
  const float* norm = nullptr;  // (d_model)
  Linear qkv;                   // (channels, d_model): all q, all k, all v
  Linear z, b, a, out;
  const float* conv = nullptr;      // (channels, conv_width)
  const float* a_log = nullptr;     // (n_value_heads)
  const float* dt_bias = nullptr;   // (n_value_heads)
  const float* out_norm = nullptr;  // (value_dim)
  uint32_t n_key_heads = 0, n_value_heads = 0, key_dim = 0, value_dim = 0, conv_width = 0;
  float eps = 1e-6f;
  uint32_t channels() const { return 2 * n_key_heads * key_dim + n_value_heads * value_dim; }
};

struct GatedFfn {  // down(silu(gate x) * (up x))
  Linear gate, up, down;
};

struct Router {
  Linear gate;  // (n_experts, d_model)
  uint32_t n_experts = 0, top_k = 0;
  bool normalise = true;  // chosen probabilities sum to one
};

struct Routing {
  std::vector<uint32_t> experts;  // (n, top_k) ascending
  std::vector<float> weights;     // (n, top_k)
  std::vector<float> logits;      // (n, n_experts)
};

struct ExpertJob {  // one expert in memory, and the (row, output) pairs that it computes
  GatedFfn ffn;
  std::vector<uint32_t> rows;   // of the normed input
  std::vector<uint32_t> pairs;  // row of the expert outputs, row * top_k + rank
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;
  virtual void embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) = 0;
  virtual void attention(const Attention& w, std::span<const Segment> segments, uint32_t n,
                         float* x) = 0;  // x += attention(norm(x))
  virtual void delta_net(const DeltaNet& w, std::span<const Segment> segments, uint32_t n,
                         float* x) = 0;  // x += delta_net(norm(x))
  virtual void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                    float* out) = 0;
  virtual void route(const Router& w, const float* normed, uint32_t n, Routing& out) = 0;
  virtual void ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) = 0;
  // expert_out (n * top_k, d_model): writes the rows that the jobs name.
  virtual void experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) = 0;
  // x += sum over ranks of weight * expert_out (+ sigmoid(shared_gate normed) * shared).
  virtual void combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                       const Linear* shared_gate, const float* normed, const float* shared,
                       uint32_t n, uint32_t dim, float* x) = 0;
  virtual void add(const float* y, uint64_t n, float* x) = 0;  // x += y
  virtual void linear(const Linear& w, const float* x, uint32_t n, float* y) = 0;
};

}  // namespace moeflux::ops
