// Grouped-query attention with rotary positions over a KV cache.
#pragma once
#include <cmath>

#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct Attention {
  static constexpr char kKind[] = "attention";
  Linear q, k, v, o, gate;        // gate.out() == 0: none. v.out() == 0: what k makes, as it is
  const float* q_norm = nullptr;  // (head_dim), with whole_norms (n_heads * head_dim); or none
  const float* k_norm = nullptr;
  bool whole_norms = false;          // norms are over all heads at once
  bool value_norm = false;           // each head's values have a norm without weights
  const float* post_norm = nullptr;  // (d_model) of what o makes; or none
  const float* inv_freq = nullptr;   // (rotary_dim / 2)
  uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0, rotary_dim = 0;
  uint32_t window = 0;  // positions that a query sees, its own among them; 0: all before it
  const float* sinks = nullptr;  // (n_heads) what joins a softmax as the score of no value; or none
  float rope_scale = 1;          // multiplies cos and sin (YaRN's attention factor)
  float scale = 0;               // of scores; 0: 1 / sqrt(head_dim)
  float eps = 1e-6f;

  template <class V>
  void fields(V&& visit) {
    visit.number("eps", eps);
    visit.number("n_heads", n_heads);
    visit.number("n_kv_heads", n_kv_heads);
    visit.number("head_dim", head_dim);
    visit.number("rotary_dim", rotary_dim);
    visit.number("rope_scale", rope_scale);
    visit.number("whole_norms", whole_norms);
    visit.number("window", window);
    visit.number("scale", scale);
    visit.number("value_norm", value_norm);
    const uint64_t heads = uint64_t(n_heads) * head_dim, kv = uint64_t(n_kv_heads) * head_dim;
    visit.matrix("q", q, heads, visit.d_model);
    visit.matrix("k", k, kv, visit.d_model);
    visit.matrix("v", v, kv, visit.d_model, kOptional);
    visit.matrix("o", o, visit.d_model, heads);
    visit.matrix("gate", gate, heads, visit.d_model, kOptional);
    visit.vector("q_norm", q_norm, whole_norms ? heads : head_dim, kOptional);
    visit.vector("k_norm", k_norm, whole_norms ? kv : head_dim, kOptional);
    visit.vector("post_norm", post_norm, visit.d_model, kOptional);
    visit.vector("sinks", sinks, n_heads, kOptional);
    visit.vector("inv_freq", inv_freq, rotary_dim / 2);
  }
  std::string fault() const {
    if (n_heads == 0 || n_kv_heads == 0 || head_dim == 0) return "heads of at least one number";
    if (n_heads % n_kv_heads)
      return cat("key heads that divide ", n_heads, " heads, found ", n_kv_heads);
    if (!(scale >= 0 && std::isfinite(scale))) return cat("a finite scale from 0, found ", scale);
    if (rotary_dim % 2 || rotary_dim > head_dim)
      return cat("an even rotary width up to ", head_dim, ", found ", rotary_dim);
    return {};
  }
  CacheShape cache() const { return {n_kv_heads, head_dim, window}; }
  uint64_t state_floats() const { return 0; }
};

// x += w(normed): ops/cpu/mixers/attention.cpp, ops/gpu/mixers/attention.cpp.
void mix(cpu::CpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x);
void mix(gpu::GpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x);

}  // namespace moeflux::ops
