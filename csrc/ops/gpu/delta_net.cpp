#include <cmath>

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {
constexpr float kL2NormEps = 1e-6f;  // of the models' l2norm, not a configuration value
}

struct GpuOps::DeltaRows {
  DeltaRows(Bump bump, const DeltaNet& w, uint32_t n)
      : w(w),
        n(n),
        channels(w.channels()),
        keys(w.n_key_heads * w.key_dim),
        values(w.n_value_heads * w.value_dim),
        normed(bump.take(uint64_t(n) * w.qkv.in())),
        out(bump.take(uint64_t(n) * w.out.out())),
        qkv(bump.take(uint64_t(n) * channels)),
        convolved(bump.take(uint64_t(n) * channels)),
        z(bump.take(uint64_t(n) * values)),
        mixed(bump.take(uint64_t(n) * values)),
        a(bump.take(uint64_t(n) * w.n_value_heads)),
        b(bump.take(uint64_t(n) * w.n_value_heads)),
        decay(bump.take(uint64_t(n) * w.n_value_heads)),
        beta(bump.take(uint64_t(n) * w.n_value_heads)) {}
  const DeltaNet& w;
  uint32_t n, channels, keys, values;
  float *normed, *out, *qkv, *convolved, *z, *mixed, *a, *b, *decay, *beta;
};

// The recurrence over the rows of one session, which reads one state and writes the other.
void GpuOps::recur(const DeltaRows& rows, const Segment& segment) {
  const DeltaNet& w = rows.w;
  const uint64_t n = segment.n, heads = w.n_value_heads;
  const uint64_t state = heads * w.value_dim * w.key_dim;
  recorder_.run(
      {"gated_delta_net_f32", "Dk", w.key_dim},
      {recorder_.in(segment.state_in, state),
       recorder_.in(rows.convolved + uint64_t(segment.row) * rows.channels, n * rows.channels),
       recorder_.in(rows.decay + segment.row * heads, n * heads),
       recorder_.in(rows.beta + segment.row * heads, n * heads),
       recorder_.out(rows.mixed + uint64_t(segment.row) * rows.values, n * rows.values),
       recorder_.out(segment.state_out, state)},
      GatedDeltaNetArgs{segment.n, w.n_key_heads, w.n_value_heads, w.value_dim, rows.channels});
}

void GpuOps::delta_net(const DeltaNet& w, std::span<const Segment> segments, uint32_t n, float* x) {
  const DeltaRows rows(bump(), w, n);
  const uint32_t d_model = w.out.out(), heads = w.n_value_heads;
  norm(w.norm, w.eps, x, n, w.qkv.in(), rows.normed);
  project(w.qkv, rows.normed, n, rows.qkv);
  project(w.z, rows.normed, n, rows.z);
  project(w.b, rows.normed, n, rows.b);
  project(w.a, rows.normed, n, rows.a);
  for (const Segment& segment : segments) {
    const uint64_t at = uint64_t(segment.row) * rows.channels;
    const uint64_t count = uint64_t(segment.n) * rows.channels;
    const uint64_t history = uint64_t(w.conv_width - 1) * rows.channels;
    recorder_.run(
        {"conv1d_f32"},
        {recorder_.in(segment.conv_in, history), recorder_.in(rows.qkv + at, count),
         recorder_.in(w.conv, uint64_t(rows.channels) * w.conv_width),
         recorder_.out(rows.convolved + at, count), recorder_.out(segment.conv_out, history),
         u32(segment.n), u32(rows.channels), u32(w.conv_width)});
  }
  const auto l2_norm = [&](float* from, float scale) {
    const uint64_t count = uint64_t(n - 1) * rows.channels + rows.keys;
    recorder_.run({"l2_norm_f32"},
                  {recorder_.out(from, count), u32(n), u32(w.n_key_heads), u32(w.key_dim),
                   u32(rows.channels), f32(scale), f32(kL2NormEps)});
  };
  l2_norm(rows.convolved, 1.0f / std::sqrt(static_cast<float>(w.key_dim)));
  l2_norm(rows.convolved + rows.keys, 1.0f);
  const uint64_t gates = uint64_t(n) * heads;
  recorder_.run(
      {"compute_decay_beta_f32"},
      {recorder_.in(rows.a, gates), recorder_.in(rows.b, gates), recorder_.in(w.a_log, heads),
       recorder_.in(w.dt_bias, heads), recorder_.out(rows.decay, gates),
       recorder_.out(rows.beta, gates), u32(n), u32(heads)});
  for (const Segment& segment : segments) recur(rows, segment);
  const uint64_t count = uint64_t(n) * rows.values;
  recorder_.run_groups({"gated_rms_norm_f32"}, gates,
                       {recorder_.in(rows.mixed, count), recorder_.in(rows.z, count),
                        recorder_.in(w.out_norm, w.value_dim), recorder_.out(rows.mixed, count),
                        u32(w.value_dim), f32(w.eps)});
  project(w.out, rows.mixed, n, rows.out);
  add(rows.out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops::gpu
