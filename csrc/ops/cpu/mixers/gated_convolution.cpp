#include "ops/mixers/gated_convolution.h"

#include "ops/cpu/mixers/convolve.h"

namespace moeflux::ops {

using namespace cpu;

void mix(CpuOps& ops, const GatedConvolution& w, Segments segments, const Rows& normed, float* x) {
  const uint64_t n = normed.n, d = w.out.in();
  Scratch& stage = ops.buffers().stage;
  stage.start();
  float* out = stage.take(n * d);
  float* parts = stage.take(n * 3 * d);  // b, c, u
  float* gated = stage.take(n * d);
  float* convolved = stage.take(n * d);
  ops.project({{&w.inputs, parts, ops.precision()}}, normed);
  // to = a * b, by rows: of parts, or of one thing with parts.
  const auto multiply = [&](const float* a, uint64_t a_stride, uint64_t part, float* to) {
    ops.pool().parallel_for(static_cast<int>(n), [&](int row, int) {
      const float *p = a + row * a_stride, *q = parts + row * 3 * d + part * d;
      for (uint64_t i = 0; i < d; ++i) to[row * d + i] = p[i] * q[i];
    });
  };
  multiply(parts, 3 * d, 2, gated);
  convolve(ops, {w.conv, w.conv_bias, static_cast<uint32_t>(d), w.conv_width}, segments, gated,
           convolved);
  multiply(convolved, d, 1, convolved);
  ops.project({{&w.out, out, inner_precision(ops.precision())}}, {convolved, normed.n});
  ops.add(out, n * d, x);
}

}  // namespace moeflux::ops
