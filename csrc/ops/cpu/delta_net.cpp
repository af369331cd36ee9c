#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/bump.h"

namespace moeflux::ops::cpu {

namespace {
float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}
float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}
}  // namespace

void CpuOps::delta_net(const DeltaNet& w, std::span<const Segment> segments, uint32_t n, float* x) {
  const uint32_t d_model = w.out.weight.out, channels = w.channels(),
                 keys = w.n_key_heads * w.key_dim, values = w.n_value_heads * w.value_dim,
                 history = w.conv_width - 1;
  Bump bump{stage_.as<float>()};
  float* normed = bump.take(uint64_t(n) * d_model);
  float* qkv = bump.take(uint64_t(n) * channels);
  float* convolved = bump.take(uint64_t(n) * channels);
  float* z = bump.take(uint64_t(n) * values);
  float* b = bump.take(uint64_t(n) * w.n_value_heads);
  float* a = bump.take(uint64_t(n) * w.n_value_heads);
  float* mixed = bump.take(uint64_t(n) * values);
  float* out = bump.take(uint64_t(n) * d_model);

  rms_norm(w.norm, w.eps, x, n, d_model, normed);
  project({{&w.qkv, qkv, precision_},
           {&w.z, z, precision_},
           {&w.b, b, Precision::float32},
           {&w.a, a, Precision::float32}},
          normed, n);

  for (const Segment& segment : segments) {
    const auto input = [&](int64_t i) {  // i < 0: from the history
      return i < 0 ? segment.conv_in + (history + i) * channels
                   : qkv + (segment.row + i) * uint64_t(channels);
    };
    pool_.parallel_for(static_cast<int>(segment.n), [&](int i, int) {
      float* y = convolved + (segment.row + i) * uint64_t(channels);
      std::fill_n(y, channels, 0.0f);
      for (uint32_t tap = 0; tap < w.conv_width; ++tap) {
        const float* from = input(int64_t(i) - history + tap);
        for (uint32_t c = 0; c < channels; ++c) y[c] += w.conv[c * w.conv_width + tap] * from[c];
      }
      kernels_.silu(y, channels);
      for (uint32_t h = 0; h < w.n_key_heads; ++h) {
        kernels_.l2_norm(y + h * w.key_dim, w.key_dim, 1e-6f,
                         1.0f / std::sqrt(static_cast<float>(w.key_dim)));
        kernels_.l2_norm(y + keys + h * w.key_dim, w.key_dim, 1e-6f, 1.0f);
      }
    });
    std::vector<float> tail(uint64_t(history) * channels);
    for (uint32_t i = 0; i < history; ++i)
      std::copy_n(input(int64_t(segment.n) - history + i), channels,
                  tail.data() + uint64_t(i) * channels);
    std::copy(tail.begin(), tail.end(), segment.conv_out);

    pool_.parallel_for(static_cast<int>(w.n_value_heads), [&](int head, int) {
      const uint32_t key_head = head / (w.n_value_heads / w.n_key_heads);
      const uint64_t state_at = uint64_t(head) * w.value_dim * w.key_dim;
      const float decay = -std::exp(w.a_log[head]);
      for (uint32_t i = 0; i < segment.n; ++i) {
        const uint64_t row = segment.row + i;
        const float* y = convolved + row * channels;
        const float g =
            std::exp(decay * softplus(a[row * w.n_value_heads + head] + w.dt_bias[head]));
        const uint64_t at = row * values + uint64_t(head) * w.value_dim;
        kernels_.delta_step((i == 0 ? segment.state_in : segment.state_out) + state_at,
                            segment.state_out + state_at, y + key_head * w.key_dim,
                            y + keys + key_head * w.key_dim, y + 2 * keys + head * w.value_dim, g,
                            sigmoid(b[row * w.n_value_heads + head]), w.key_dim, w.value_dim,
                            mixed + at);
        kernels_.rms_norm(mixed + at, w.out_norm, w.value_dim, w.eps, mixed + at);
        kernels_.swiglu(z + at, mixed + at, w.value_dim, mixed + at);
      }
    });
  }
  project({{&w.out, out, precision_}}, mixed, n);
  add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops::cpu
