#include <cmath>

#include "ops/cpu/mixers/convolve.h"
#include "ops/cpu/mixers/recurrence.h"

namespace moeflux::ops {

using namespace cpu;

namespace {
float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

struct DeltaRows {
  CpuOps& ops;
  const DeltaNet& w;
  Segments segments;
  uint32_t n, keys, values;  // rows; numbers of a row of k, of v
  float *qkv, *convolved, *z, *b, *a, *mixed;
};

// Norms q and k; turns a into the decay g, b into beta.
void prepare_delta(const DeltaRows& rows) {
  const DeltaNet& w = rows.w;
  rows.ops.pool().parallel_for(static_cast<int>(rows.n), [&](int row, int) {
    float* y = rows.convolved + uint64_t(row) * w.channels();
    for (uint32_t h = 0; h < w.n_key_heads; ++h) {
      rows.ops.kernels().l2_norm(y + h * w.key_dim, w.key_dim, 1e-6f,
                                 1.0f / std::sqrt(static_cast<float>(w.key_dim)));
      rows.ops.kernels().l2_norm(y + rows.keys + h * w.key_dim, w.key_dim, 1e-6f, 1.0f);
    }
    float* g = rows.a + uint64_t(row) * w.n_value_heads;
    float* beta = rows.b + uint64_t(row) * w.n_value_heads;
    for (uint32_t h = 0; h < w.n_value_heads; ++h) {
      g[h] = std::exp(-std::exp(w.a_log[h]) * softplus(g[h] + w.dt_bias[h]));
      beta[h] = sigmoid(beta[h]);
    }
  });
}

void recur(const DeltaRows& rows) {
  const DeltaNet& w = rows.w;
  each_state_task(rows.ops, rows.segments, w.n_value_heads, w.value_dim,
                  [&](const Segment& segment, uint32_t head, uint32_t begin, uint32_t end) {
                    const uint32_t key_head = head / (w.n_value_heads / w.n_key_heads);
                    const uint64_t state_at = uint64_t(head) * w.value_dim * w.key_dim,
                                   row = segment.row;
                    const float* y = rows.convolved + row * w.channels();
                    DeltaRule rule;
                    rule.state_in = segment.state_in + state_at;
                    rule.state_out = segment.state_out + state_at;
                    rule.q = y + key_head * w.key_dim;
                    rule.k = y + rows.keys + key_head * w.key_dim;
                    rule.v = y + 2 * rows.keys + head * w.value_dim;
                    rule.g = rows.a + row * w.n_value_heads + head;
                    rule.beta = rows.b + row * w.n_value_heads + head;
                    rule.out = rows.mixed + row * rows.values + uint64_t(head) * w.value_dim;
                    rule.qk_stride = rule.v_stride = w.channels();
                    rule.gate_stride = w.n_value_heads;
                    rule.out_stride = rows.values;
                    rule.n = segment.n;
                    rule.dk = w.key_dim;
                    rule.begin = begin;
                    rule.end = end;
                    rows.ops.kernels().delta_rule(rule);
                  });
}

}  // namespace

void mix(CpuOps& ops, const DeltaNet& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n, d_model = w.out.out(), channels = w.channels(),
                 values = w.n_value_heads * w.value_dim;
  Scratch& stage = ops.buffers().stage;
  stage.start();
  float* out = stage.take(uint64_t(n) * d_model);
  const DeltaRows rows{ops,
                       w,
                       segments,
                       n,
                       w.n_key_heads * w.key_dim,
                       values,
                       stage.take(uint64_t(n) * channels),
                       stage.take(uint64_t(n) * channels),
                       stage.take(uint64_t(n) * values),
                       stage.take(uint64_t(n) * w.n_value_heads),
                       stage.take(uint64_t(n) * w.n_value_heads),
                       stage.take(uint64_t(n) * values)};

  ops.project({{&w.qkv, rows.qkv, ops.precision()},
               {&w.z, rows.z, ops.precision()},
               {&w.b, rows.b, Precision::float32},
               {&w.a, rows.a, Precision::float32}},
              normed);
  convolve(ops, {w.conv, nullptr, channels, w.conv_width, true, w.recurrent_floats()}, segments,
           rows.qkv, rows.convolved);
  prepare_delta(rows);
  recur(rows);
  ops.pool().parallel_for(static_cast<int>(n), [&](int row, int) {
    for (uint32_t h = 0; h < w.n_value_heads; ++h) {
      const uint64_t at = uint64_t(row) * values + uint64_t(h) * w.value_dim;
      ops.kernels().rms_norm(rows.mixed + at, w.out_norm, w.value_dim, w.eps, rows.mixed + at);
      ops.kernels().swiglu(rows.z + at, rows.mixed + at, w.value_dim, rows.mixed + at);
    }
  });
  ops.project({{&w.out, out, inner_precision(ops.precision())}}, {rows.mixed, n});
  ops.add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops
