#include "ops/mixers/mamba2.h"

#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

using namespace gpu;

namespace {

constexpr uint32_t kMostState = 512;  // columns of a state, which a SIMD group holds

struct SpaceRows {
  SpaceRows(GpuOps& ops, Bump bump, const Mamba2& w, uint64_t n)
      : recorder(ops.recorder()),
        w(w),
        out(bump.take(n * w.out.out())),
        inputs(bump.take(n * w.channels())),
        convolved(bump.take(n * w.channels())),
        z(bump.take(n * w.values())),
        mixed(bump.take(n * w.values())),
        dt(bump.take(n * w.n_heads)),
        decay(bump.take(n * w.n_heads)) {}
  Recorder& recorder;
  const Mamba2& w;
  float *out, *inputs, *convolved, *z, *mixed, *dt, *decay;
};

void convolve(const SpaceRows& rows, const Segment& segment) {
  const Mamba2& w = rows.w;
  const uint64_t channels = w.channels(), at = segment.row * channels, count = segment.n * channels;
  const uint64_t history = (w.conv_width - 1) * channels, recurrent = w.recurrent_floats();
  rows.recorder.weigh(count * w.conv_width);
  rows.recorder.run(
      {"conv1d_f32"},
      {rows.recorder.in(segment.state_in + recurrent, history),
       rows.recorder.in(rows.inputs + at, count), rows.recorder.in(w.conv, channels * w.conv_width),
       rows.recorder.in(w.conv_bias, channels), rows.recorder.out(rows.convolved + at, count),
       rows.recorder.out(segment.state_out + recurrent, history), u32(segment.n), u32(channels),
       u32(w.conv_width), u32(w.conv_bias != nullptr)});
}

// The recurrence over the rows of one session, which reads one state and writes the other.
void recur(const SpaceRows& rows, const Segment& segment) {
  const Mamba2& w = rows.w;
  const uint64_t n = segment.n, heads = w.n_heads, row = segment.row, values = w.values();
  rows.recorder.weigh(2 * n * w.recurrent_floats());
  rows.recorder.run(
      {"state_space_f32", "Dk", w.state_dim},
      {rows.recorder.in(segment.state_in, w.recurrent_floats()),
       rows.recorder.in(rows.convolved + row * w.channels(), n * w.channels()),
       rows.recorder.in(rows.decay + row * heads, n * heads),
       rows.recorder.in(rows.dt + row * heads, n * heads), rows.recorder.in(w.skip, heads),
       rows.recorder.out(rows.mixed + row * values, n * values),
       rows.recorder.out(segment.state_out, w.recurrent_floats())},
      StateSpaceArgs{segment.n, w.n_heads, w.n_groups, w.head_dim, w.channels()});
}

}  // namespace

void mix(GpuOps& ops, const Mamba2& w, Segments segments, const Rows& normed, float* x) {
  if (w.state_dim > kMostState)
    throw NoKernelError("[gpu::mix] Mamba-2: expected states of up to ", kMostState,
                        " columns, found ", w.state_dim,
                        ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  const SpaceRows rows(ops, ops.bump(), w, n);
  Recorder& recorder = rows.recorder;
  const Product products[] = {{&w.inputs, rows.inputs}, {&w.z, rows.z}, {&w.steps, rows.dt}};
  project_all(recorder, products, normed.data, n);
  for (const Segment& segment : segments) convolve(rows, segment);
  const uint64_t steps = uint64_t(n) * w.n_heads, count = uint64_t(n) * w.values();
  recorder.run({"state_space_steps_f32"},
               {recorder.in(rows.dt, steps), recorder.in(w.dt_bias, w.n_heads),
                recorder.in(w.a_log, w.n_heads), recorder.out(rows.dt, steps),
                recorder.out(rows.decay, steps), u32(n), u32(w.n_heads)});
  for (const Segment& segment : segments) recur(rows, segment);
  recorder.run({"group_norm_gated_f32"},
               {recorder.in(rows.mixed, count), recorder.in(rows.z, count),
                recorder.in(w.out_norm, w.values()), recorder.out(rows.mixed, count), u32(n),
                u32(w.n_groups), u32(w.values() / w.n_groups), f32(w.eps)});
  ops.project(w.out, rows.mixed, n, rows.out);
  ops.add(rows.out, uint64_t(n) * w.out.out(), x);
}

}  // namespace moeflux::ops
