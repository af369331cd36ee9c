#include "ops/mixers/short_convolution.h"

#include <algorithm>

#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops {

void mix(cpu::CpuOps& ops, const ShortConvolution& w, Segments segments, const Rows& normed,
         float* x) {
  const uint32_t d = w.out.in(), history = w.width - 1;
  cpu::Scratch& stage = ops.buffers().stage;
  stage.start();
  float* mixed = stage.take(uint64_t(normed.n) * d);
  float* out = stage.take(uint64_t(normed.n) * d);
  ops.pool().parallel_for(static_cast<int>(segments.size()), [&](int task, int) {
    const Segment& segment = segments[task];
    std::vector<const float*> inputs;
    for (uint32_t i = 0; i < history; ++i) inputs.push_back(segment.state_in + uint64_t(i) * d);
    for (uint64_t i = 0; i < segment.n; ++i) inputs.push_back(normed.data + (segment.row + i) * d);
    ops.kernels().convolve(
        {inputs.data(), w.conv, mixed + uint64_t(segment.row) * d, d, w.width, segment.n, 0, d});
    for (uint32_t i = 0; i < history; ++i)  // upwards: state_out may be state_in
      std::copy_n(inputs[segment.n + i], d, segment.state_out + uint64_t(i) * d);
  });
  ops.project({{&w.out, out, ops.precision()}}, {mixed, normed.n});
  ops.add(out, uint64_t(normed.n) * d, x);
}

}  // namespace moeflux::ops
