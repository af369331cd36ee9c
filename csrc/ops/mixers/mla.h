// Multi-head latent attention (DeepSeek-V2) in its absorbed form: what is cached of a position is
// a latent, of which each head's key and value are linear functions, and one rotated key for all
// heads. Heads' queries go through their key's function, so that they meet the latents themselves;
// what they find is a mixture of latents, which goes through the value's function.
#pragma once
#include <cmath>

#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct Mla {
  static constexpr char kKind[] = "mla";
  Linear q_a;                       // (query rank, d_model); or none
  const float* q_norm = nullptr;    // (query rank)
  Linear q_b;                       // (n_heads * (nope_dim + rope_dim), query rank or d_model)
  Linear kv_a;                      // (rank + rope_dim, d_model): latent and rotated key
  const float* kv_norm = nullptr;   // (rank)
  const float* kv_b = nullptr;      // (n_heads, nope_dim + value_dim, rank): keys, then values
  Linear o;                         // (d_model, n_heads * value_dim)
  const float* inv_freq = nullptr;  // (rope_dim / 2)
  uint32_t n_heads = 0, rank = 0, nope_dim = 0, rope_dim = 0, value_dim = 0;
  float rope_scale = 1;     // multiplies cos and sin
  float scale = 1;          // of scores
  float norm_eps = 1e-6f;   // of q_norm and kv_norm
  float query_growth = 0;   // queries grow by it with each power of e of their steps, ...
  uint32_t query_step = 0;  // ... of so many positions; 0: they do not

  uint32_t q_head() const { return nope_dim + rope_dim; }
  uint32_t kv_head() const { return nope_dim + value_dim; }  // rows of kv_b
  uint32_t cached() const { return rank + rope_dim; }
  float query_factor(uint32_t position) const {
    if (query_step == 0) return 1;
    return 1 + query_growth * std::log(static_cast<float>(1 + uint64_t(position) / query_step));
  }

  template <class V>
  void fields(V&& visit) {
    visit.number("n_heads", n_heads);
    visit.number("rank", rank);
    visit.number("nope_dim", nope_dim);
    visit.number("rope_dim", rope_dim);
    visit.number("value_dim", value_dim);
    visit.number("rope_scale", rope_scale);
    visit.number("scale", scale);
    visit.number("norm_eps", norm_eps);
    visit.number("query_growth", query_growth);
    visit.number("query_step", query_step);
    visit.matrix("q_a", q_a, q_a.out(), visit.d_model, kOptional);  // which says the rank
    visit.vector("q_norm", q_norm, q_a.out(), kOptional);
    const uint64_t heads = n_heads;
    visit.matrix("q_b", q_b, heads * q_head(), q_a.out() ? q_a.out() : visit.d_model);
    visit.matrix("kv_a", kv_a, uint64_t(rank) + rope_dim, visit.d_model);
    visit.vector("kv_norm", kv_norm, rank);
    visit.sliced("kv_b", kv_b, Slices{n_heads, {nope_dim, value_dim}, rank});
    visit.matrix("o", o, visit.d_model, heads * value_dim);
    visit.vector("inv_freq", inv_freq, rope_dim / 2);
  }
  std::string fault() const {
    if (n_heads == 0 || rank == 0 || nope_dim == 0 || value_dim == 0)
      return "heads and a latent of at least one number";
    if (rope_dim % 2 || rope_dim == 0) return cat("an even rotary width, found ", rope_dim);
    if ((q_norm != nullptr) != (q_a.out() != 0)) return "a norm of what q_a makes, and of no other";
    if (!std::isfinite(query_growth)) return cat("a finite query_growth, found ", query_growth);
    if (!std::isfinite(scale)) return cat("a finite scale, found ", scale);
    return {};
  }
  CacheShape cache() const { return {1, cached()}; }
  uint64_t state_floats() const { return 0; }
};

// x += w(normed). Pairs of channels (2 i, 2 i + 1) are rotated.
void mix(cpu::CpuOps& ops, const Mla& w, Segments segments, const Rows& normed, float* x);
void mix(gpu::GpuOps& ops, const Mla& w, Segments segments, const Rows& normed, float* x);

}  // namespace moeflux::ops
