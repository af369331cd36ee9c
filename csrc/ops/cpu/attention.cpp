#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/bump.h"

namespace moeflux::ops::cpu {

void CpuOps::attention(const Attention& w, std::span<const Segment> segments, uint32_t n,
                       float* x) {
  const uint32_t d_model = w.o.weight.out, heads = w.n_heads * w.head_dim,
                 kv_dim = w.n_kv_heads * w.head_dim, half = w.rotary_dim / 2;
  Bump bump{stage_.as<float>()};
  float* normed = bump.take(uint64_t(n) * d_model);
  float* q = bump.take(uint64_t(n) * heads);
  float* k = bump.take(uint64_t(n) * kv_dim);
  float* v = bump.take(uint64_t(n) * kv_dim);
  float* gate = bump.take(uint64_t(n) * w.gate.weight.out);
  float* mixed = bump.take(uint64_t(n) * heads);
  float* out = bump.take(uint64_t(n) * d_model);

  rms_norm(w.norm, w.eps, x, n, d_model, normed);
  project({{&w.q, q, precision_},
           {&w.k, k, precision_},
           {&w.v, v, precision_},
           {&w.gate, gate, precision_}},
          normed, n);

  struct Place {
    const Segment* segment;
    uint32_t position;
  };
  std::vector<Place> places(n);
  for (const Segment& segment : segments)
    for (uint32_t i = 0; i < segment.n; ++i)
      places[segment.row + i] = {&segment, segment.position + i};

  // q/k norm and RoPE (half-split pairs, angles in f32 as transformers computes them), then cache.
  pool_.parallel_for(static_cast<int>(n), [&](int row, int) {
    const uint32_t position = places[row].position;
    std::vector<float> cosine(half), sine(half);
    for (uint32_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * w.inv_freq[i];
      cosine[i] = std::cos(angle) * w.rope_scale;
      sine[i] = std::sin(angle) * w.rope_scale;
    }
    const auto prepare = [&](float* head, const float* norm_weight) {
      if (norm_weight) kernels_.rms_norm(head, norm_weight, w.head_dim, w.eps, head);
      for (uint32_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
      }
    };
    for (uint32_t h = 0; h < w.n_heads; ++h)
      prepare(q + uint64_t(row) * heads + h * w.head_dim, w.q_norm);
    float* key = k + uint64_t(row) * kv_dim;
    for (uint32_t h = 0; h < w.n_kv_heads; ++h) prepare(key + h * w.head_dim, w.k_norm);
    const uint64_t at = uint64_t(position) * kv_dim;
    std::copy_n(key, kv_dim, places[row].segment->keys + at);
    std::copy_n(v + uint64_t(row) * kv_dim, kv_dim, places[row].segment->values + at);
  });

  const float scale = 1.0f / std::sqrt(static_cast<float>(w.head_dim));
  const uint32_t group = w.n_heads / w.n_kv_heads;
  pool_.parallel_for(static_cast<int>(n * w.n_heads), [&](int task, int worker) {
    const uint32_t row = task / w.n_heads, h = task % w.n_heads;
    const Place& place = places[row];
    const uint64_t kv_head = uint64_t(h / group) * w.head_dim;
    const uint64_t at = uint64_t(row) * heads + h * w.head_dim;
    kernels_.attend(q + at, place.segment->keys + kv_head, place.segment->values + kv_head, kv_dim,
                    place.position + 1, w.head_dim, scale,
                    reinterpret_cast<float*>(matmul_->worker_scratch(worker)), mixed + at);
    if (w.gate.weight.out) kernels_.sigmoid_gate(mixed + at, gate + at, w.head_dim);
  });
  project({{&w.o, out, precision_}}, mixed, n);
  add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops::cpu
