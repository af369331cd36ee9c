#include "ops/mixers/mla.h"

#include <algorithm>

#include "ops/cpu/mixers/attend_rows.h"

namespace moeflux::ops {

using namespace cpu;

namespace {

struct MlaRows {
  CpuOps& ops;
  const Mla& w;
  uint32_t n;
  float *q_a, *q, *kv;   // what the projections make; kv: latent and rotated key
  float *query, *found;  // (n, n_heads, cached): queries of latents, mixtures of them
  float* mixed;          // (n, n_heads, value_dim)

  void norm(float* rows, const float* weight, uint32_t dim, uint64_t stride) const {
    ops.pool().parallel_for(static_cast<int>(n), [&](int row, int) {
      float* x = rows + row * stride;
      ops.kernels().rms_norm(x, weight, dim, w.norm_eps, x);
    });
  }
};

// Pairs (2 i, 2 i + 1) of x, rotated, into out: first ones, then second ones.
void rotate_pairs(const Kernels& kernels, const float* x, const float* cosine, uint32_t half,
                  float* out) {
  for (uint32_t i = 0; i < half; ++i) {
    out[i] = x[2 * i];
    out[half + i] = x[2 * i + 1];
  }
  kernels.rotate(out, cosine, cosine + half, half);
}

// Rotates keys and appends them and the latents to the cache. A value is the latent, too: what the
// heads find beside it, of the rotated key, is not used.
void cache(const MlaRows& of, const AttentionRows& rows, const float* table) {
  const Mla& w = of.w;
  const uint32_t half = w.rope_dim / 2;
  of.ops.pool().parallel_for(static_cast<int>(of.n), [&](int row, int) {
    float* latent = of.kv + uint64_t(row) * w.cached();
    std::vector<float> key(latent + w.rank, latent + w.cached());
    rotate_pairs(of.ops.kernels(), key.data(), table + uint64_t(row) * 2 * half, half,
                 latent + w.rank);
    rows.put(row, 0, latent, latent);
  });
}

// Each head's query of latents: its plain part through the transposed keys of kv_b, in ascending
// order of their rows, and its rotated part. A task is a head, so that its weights are read once.
void absorb_keys(const MlaRows& of, const AttentionRows& rows, const float* table) {
  const Mla& w = of.w;
  const uint32_t half = w.rope_dim / 2;
  of.ops.pool().parallel_for(static_cast<int>(w.n_heads), [&](int head, int) {
    const float* keys = w.kv_b + uint64_t(head) * w.kv_head() * w.rank;
    for (uint32_t row = 0; row < of.n; ++row) {
      float* q = of.q + (uint64_t(row) * w.n_heads + head) * w.q_head();
      const float factor = w.query_factor(rows.position[row]);
      for (uint32_t i = 0; i < w.q_head(); ++i) q[i] *= factor;
      float* out = of.query + (uint64_t(row) * w.n_heads + head) * w.cached();
      std::fill_n(out, w.rank, 0.0f);
      for (uint32_t i = 0; i < w.nope_dim; ++i)
        of.ops.kernels().axpy(q[i], keys + uint64_t(i) * w.rank, out, w.rank);
      rotate_pairs(of.ops.kernels(), q + w.nope_dim, table + uint64_t(row) * 2 * half, half,
                   out + w.rank);
    }
  });
}

// Each head's mixture of latents through the values of kv_b.
void absorb_values(const MlaRows& of) {
  const Mla& w = of.w;
  const quant::Shape shape{w.value_dim, w.rank};
  const InputFormat format = input_format(shape, Precision::float32, of.ops.kernels());
  const uint64_t record_bytes = input_bytes(format, w.rank);
  const uint64_t floats = record_bytes / sizeof(float);
  float* workers = of.ops.worker_floats(floats);
  of.ops.pool().parallel_for(static_cast<int>(w.n_heads), [&](int head, int worker) {
    const float* values = w.kv_b + (uint64_t(head) * w.kv_head() + w.nope_dim) * w.rank;
    const quant::Matrix matrix =
        quant::contiguous(shape, reinterpret_cast<const std::byte*>(values));
    auto* record = reinterpret_cast<std::byte*>(workers + worker * floats);
    for (uint32_t row = 0; row < of.n; ++row) {
      const uint64_t at = uint64_t(row) * w.n_heads + head;
      of.ops.kernels().prepare(format, of.found + at * w.cached(), w.rank, record);
      const std::byte* records[] = {record};
      float* out[] = {of.mixed + at * w.value_dim};
      of.ops.kernels().matvec(matrix, format, 0, w.value_dim, records, out, 1);
    }
  });
}

}  // namespace

void mix(CpuOps& ops, const Mla& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n, d_model = w.o.out();
  Scratch& stage = ops.buffers().stage;
  stage.start();
  const auto take = [&](uint64_t width) { return stage.take(uint64_t(n) * width); };
  float* out = take(d_model);
  const uint64_t heads = w.n_heads;
  const MlaRows of{ops,
                   w,
                   n,
                   take(w.q_a.out()),
                   take(heads * w.q_head()),
                   take(w.cached()),
                   take(heads * w.cached()),
                   take(heads * w.cached()),
                   take(heads * w.value_dim)};
  const AttentionRows rows(ops, {w.n_heads, 1, w.cached(), w.scale}, w.cache(), segments, n,
                           of.query, of.found, nullptr);
  const Precision inner = inner_precision(ops.precision());
  if (w.q_a.out()) {
    ops.project({{&w.q_a, of.q_a, ops.precision()}, {&w.kv_a, of.kv, ops.precision()}}, normed);
    of.norm(of.q_a, w.q_norm, w.q_a.out(), w.q_a.out());
    ops.project({{&w.q_b, of.q, inner}}, {of.q_a, n});
  } else {
    ops.project({{&w.q_b, of.q, ops.precision()}, {&w.kv_a, of.kv, ops.precision()}}, normed);
  }
  of.norm(of.kv, w.kv_norm, w.rank, w.cached());
  const float* table = rows.rope(w.inv_freq, w.rope_scale, w.rope_dim / 2);
  cache(of, rows, table);
  absorb_keys(of, rows, table);
  rows.attend(segments);
  absorb_values(of);
  ops.project({{&w.o, out, inner}}, {of.mixed, n});
  ops.add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops
