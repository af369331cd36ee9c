#include <cmath>

#include "ops/gpu/stages.h"

namespace moeflux::ops {

using namespace gpu;

namespace {
constexpr float kL2NormEps = 1e-6f;  // of the models' l2norm, not a configuration value

struct DeltaRows {
  DeltaRows(GpuOps& ops, Bump bump, const DeltaNet& w, uint32_t n)
      : ops(ops),
        recorder(ops.recorder()),
        w(w),
        n(n),
        channels(w.channels()),
        keys(w.n_key_heads * w.key_dim),
        values(w.n_value_heads * w.value_dim),
        out(bump.take(uint64_t(n) * w.out.out())),
        qkv(bump.take(uint64_t(n) * channels)),
        convolved(bump.take(uint64_t(n) * channels)),
        z(bump.take(uint64_t(n) * values)),
        mixed(bump.take(uint64_t(n) * values)),
        a(bump.take(uint64_t(n) * w.n_value_heads)),
        b(bump.take(uint64_t(n) * w.n_value_heads)),
        decay(bump.take(uint64_t(n) * w.n_value_heads)),
        beta(bump.take(uint64_t(n) * w.n_value_heads)) {}
  GpuOps& ops;
  Recorder& recorder;
  const DeltaNet& w;
  uint32_t n, channels, keys, values;
  float *out, *qkv, *convolved, *z, *mixed, *a, *b, *decay, *beta;
};

// The recurrence over the rows of one session, which reads one state and writes the other.
void recur(const DeltaRows& rows, const Segment& segment) {
  const DeltaNet& w = rows.w;
  const uint64_t n = segment.n, heads = w.n_value_heads;
  const uint64_t state = w.recurrent_floats();
  rows.recorder.weigh(3 * n * state);
  rows.recorder.run(
      {"gated_delta_net_f32", "Dk", w.key_dim},
      {rows.recorder.in(segment.state_in, state),
       rows.recorder.in(rows.convolved + uint64_t(segment.row) * rows.channels, n * rows.channels),
       rows.recorder.in(rows.decay + segment.row * heads, n * heads),
       rows.recorder.in(rows.beta + segment.row * heads, n * heads),
       rows.recorder.out(rows.mixed + uint64_t(segment.row) * rows.values, n * rows.values),
       rows.recorder.out(segment.state_out, state)},
      GatedDeltaNetArgs{segment.n, w.n_key_heads, w.n_value_heads, w.value_dim, rows.channels});
}

}  // namespace

void mix(GpuOps& ops, const DeltaNet& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n;
  const DeltaRows rows(ops, ops.bump(), w, n);
  const uint32_t d_model = w.out.out(), heads = w.n_value_heads;
  const uint64_t recurrent = w.recurrent_floats();
  const Product products[] = {{&w.qkv, rows.qkv}, {&w.z, rows.z}, {&w.b, rows.b}, {&w.a, rows.a}};
  project_all(rows.recorder, products, normed.data, n);
  for (const Segment& segment : segments) {
    const uint64_t at = uint64_t(segment.row) * rows.channels;
    const uint64_t count = uint64_t(segment.n) * rows.channels;
    const uint64_t history = uint64_t(w.conv_width - 1) * rows.channels;
    rows.recorder.weigh(count * w.conv_width);
    rows.recorder.run({"conv1d_f32"},
                      {rows.recorder.in(segment.state_in + recurrent, history),
                       rows.recorder.in(rows.qkv + at, count),
                       rows.recorder.in(w.conv, uint64_t(rows.channels) * w.conv_width), Place{},
                       rows.recorder.out(rows.convolved + at, count),
                       rows.recorder.out(segment.state_out + recurrent, history), u32(segment.n),
                       u32(rows.channels), u32(w.conv_width), u32(0)});
  }
  const auto l2_norm = [&](float* from, float scale) {
    const uint64_t count = uint64_t(n - 1) * rows.channels + rows.keys;
    rows.recorder.run({"l2_norm_f32"},
                      {rows.recorder.out(from, count), u32(n), u32(w.n_key_heads), u32(w.key_dim),
                       u32(rows.channels), f32(scale), f32(kL2NormEps)});
  };
  l2_norm(rows.convolved, 1.0f / std::sqrt(static_cast<float>(w.key_dim)));
  l2_norm(rows.convolved + rows.keys, 1.0f);
  const uint64_t gates = uint64_t(n) * heads;
  rows.recorder.run({"compute_decay_beta_f32"},
                    {rows.recorder.in(rows.a, gates), rows.recorder.in(rows.b, gates),
                     rows.recorder.in(w.a_log, heads), rows.recorder.in(w.dt_bias, heads),
                     rows.recorder.out(rows.decay, gates), rows.recorder.out(rows.beta, gates),
                     u32(n), u32(heads)});
  for (const Segment& segment : segments) recur(rows, segment);
  const uint64_t count = uint64_t(n) * rows.values;
  rows.recorder.run_groups({"gated_rms_norm_f32"}, gates,
                           {rows.recorder.in(rows.mixed, count), rows.recorder.in(rows.z, count),
                            rows.recorder.in(w.out_norm, w.value_dim),
                            rows.recorder.out(rows.mixed, count), u32(w.value_dim), f32(w.eps)});
  ops.project(w.out, rows.mixed, n, rows.out);
  ops.add(rows.out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops
