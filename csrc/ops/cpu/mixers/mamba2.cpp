#include "ops/mixers/mamba2.h"

#include <cmath>

#include "ops/cpu/mixers/convolve.h"
#include "ops/cpu/mixers/recurrence.h"

namespace moeflux::ops {

using namespace cpu;

namespace {
struct SpaceRows {
  CpuOps& ops;
  const Mamba2& w;
  Segments segments;
  uint32_t n;  // rows
  float *inputs, *convolved, *z, *dt, *g, *mixed;
};

// Turns what `steps` makes into dt and the decay g.
void prepare_steps(const SpaceRows& rows) {
  const Mamba2& w = rows.w;
  rows.ops.pool().parallel_for(static_cast<int>(rows.n), [&](int row, int) {
    for (uint32_t h = 0; h < w.n_heads; ++h) {
      const uint64_t at = uint64_t(row) * w.n_heads + h;
      rows.dt[at] = softplus(rows.dt[at] + w.dt_bias[h]);
      rows.g[at] = std::exp(-std::exp(w.a_log[h]) * rows.dt[at]);
    }
  });
}

void recur(const SpaceRows& rows) {
  const Mamba2& w = rows.w;
  each_state_task(rows.ops, rows.segments, w.n_heads, w.head_dim,
                  [&](const Segment& segment, uint32_t head, uint32_t begin, uint32_t end) {
                    const uint32_t group = head / (w.n_heads / w.n_groups);
                    const uint64_t state_at = uint64_t(head) * w.head_dim * w.state_dim,
                                   row = segment.row;
                    const float* y = rows.convolved + row * w.channels();
                    StateSpace space;
                    space.state_in = segment.state_in + state_at;
                    space.state_out = segment.state_out + state_at;
                    space.u = y + uint64_t(head) * w.head_dim;
                    space.b = y + w.values() + uint64_t(group) * w.state_dim;
                    space.c = space.b + uint64_t(w.n_groups) * w.state_dim;
                    space.g = rows.g + row * w.n_heads + head;
                    space.dt = rows.dt + row * w.n_heads + head;
                    space.out = rows.mixed + row * w.values() + uint64_t(head) * w.head_dim;
                    space.stride = w.channels();
                    space.gate_stride = w.n_heads;
                    space.out_stride = w.values();
                    space.skip = w.skip[head];
                    space.n = segment.n;
                    space.width = w.state_dim;
                    space.begin = begin;
                    space.end = end;
                    rows.ops.kernels().state_space(space);
                  });
}

}  // namespace

void mix(CpuOps& ops, const Mamba2& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n, d_model = w.out.out(), values = w.values();
  Scratch& stage = ops.buffers().stage;
  stage.start();
  float* out = stage.take(uint64_t(n) * d_model);
  const SpaceRows rows{ops,
                       w,
                       segments,
                       n,
                       stage.take(uint64_t(n) * w.channels()),
                       stage.take(uint64_t(n) * w.channels()),
                       stage.take(uint64_t(n) * values),
                       stage.take(uint64_t(n) * w.n_heads),
                       stage.take(uint64_t(n) * w.n_heads),
                       stage.take(uint64_t(n) * values)};

  ops.project({{&w.inputs, rows.inputs, ops.precision()},
               {&w.z, rows.z, ops.precision()},
               {&w.steps, rows.dt, Precision::float32}},
              normed);
  convolve(ops, {w.conv, w.conv_bias, w.channels(), w.conv_width, true, w.recurrent_floats()},
           segments, rows.inputs, rows.convolved);
  prepare_steps(rows);
  recur(rows);
  const uint32_t width = values / w.n_groups;
  ops.pool().parallel_for(static_cast<int>(n), [&](int row, int) {
    const uint64_t at = uint64_t(row) * values;
    ops.kernels().swiglu(rows.z + at, rows.mixed + at, values, rows.mixed + at);
    for (uint32_t first = 0; first < values; first += width)
      ops.kernels().rms_norm(rows.mixed + at + first, w.out_norm + first, width, w.eps,
                             rows.mixed + at + first);
  });
  ops.project({{&w.out, out, inner_precision(ops.precision())}}, {rows.mixed, n});
  ops.add(out, uint64_t(n) * d_model, x);
}

}  // namespace moeflux::ops
