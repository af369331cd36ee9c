#include <algorithm>
#include <cmath>

#include "ops/cpu/mixers/attend_rows.h"

namespace moeflux::ops {

using namespace cpu;

namespace {

// Norms and rotates queries and keys; appends keys and values to the caches.
void rotate_and_cache(const Attention& w, const AttentionRows& rows, float* k, float* v) {
  const uint32_t half = w.rotary_dim / 2, kv_dim = w.n_kv_heads * w.head_dim;
  const float* table = rows.rope(w.inv_freq, w.rope_scale, half);
  rows.ops.pool().parallel_for(static_cast<int>(rows.position.size()), [&](int row, int) {
    const float* cosine = table + uint64_t(row) * 2 * half;
    const auto norm = [&](float* x, const float* weight, uint32_t dim) {
      if (weight) rows.ops.kernels().rms_norm(x, weight, dim, w.eps, x);
    };
    if (w.whole_norms) {
      norm(rows.q + uint64_t(row) * rows.heads, w.q_norm, rows.heads);
      norm(k + uint64_t(row) * kv_dim, w.k_norm, kv_dim);
    }
    const auto prepare = [&](float* head, const float* norm_weight) {
      if (!w.whole_norms) norm(head, norm_weight, w.head_dim);
      rows.ops.kernels().rotate(head, cosine, cosine + half, half);
    };
    for (uint32_t h = 0; h < w.n_heads; ++h)
      prepare(rows.q + uint64_t(row) * rows.heads + h * w.head_dim, w.q_norm);
    for (uint32_t h = 0; h < w.n_kv_heads; ++h) {
      const uint64_t of_head = uint64_t(row) * kv_dim + h * w.head_dim;
      if (w.v.out() == 0) std::copy_n(k + of_head, w.head_dim, v + of_head);
      if (w.value_norm)
        rows.ops.kernels().l2_norm(v + of_head, w.head_dim, w.eps * float(w.head_dim),
                                   std::sqrt(float(w.head_dim)));
      prepare(k + of_head, w.k_norm);
      rows.put(row, h, k + of_head, v + of_head);
    }
  });
}

}  // namespace

void mix(CpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n, d_model = w.o.out(), heads = w.n_heads * w.head_dim,
                 kv_dim = w.n_kv_heads * w.head_dim;
  Scratch& stage = ops.buffers().stage;
  stage.start();
  float* out = stage.take(uint64_t(n) * d_model);
  float* q = stage.take(uint64_t(n) * heads);
  float* k = stage.take(uint64_t(n) * kv_dim);
  float* v = stage.take(uint64_t(n) * kv_dim);
  float* gate = stage.take(uint64_t(n) * w.gate.out());
  float* mixed = stage.take(uint64_t(n) * heads);
  const float scale = w.scale != 0 ? w.scale : 1.0f / std::sqrt(static_cast<float>(w.head_dim));
  const AttentionRows rows(ops, {w.n_heads, w.n_kv_heads, w.head_dim, scale, w.window, w.sinks},
                           w.cache(), segments, n, q, mixed, w.gate.out() ? gate : nullptr);
  ops.project({{&w.q, q, ops.precision()},
               {&w.k, k, ops.precision()},
               {&w.v, v, ops.precision()},
               {&w.gate, gate, ops.precision()}},
              normed);
  rotate_and_cache(w, rows, k, v);
  rows.attend(segments);
  ops.project({{&w.o, out, inner_precision(ops.precision())}}, {mixed, n});
  if (w.post_norm) ops.norm(w.post_norm, w.eps, out, n, d_model, out);
  ops.add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops
