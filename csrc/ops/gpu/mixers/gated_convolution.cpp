#include "ops/mixers/gated_convolution.h"

#include "ops/gpu/stages.h"

namespace moeflux::ops {

using namespace gpu;

void mix(GpuOps& ops, const GatedConvolution& w, Segments segments, const Rows& normed, float* x) {
  const uint32_t n = normed.n, d_model = w.out.in();
  const uint64_t d = d_model, history = (w.conv_width - 1) * d;
  Bump bump = ops.bump();
  float *out = bump.take(n * d), *parts = bump.take(n * 3 * d), *convolved = bump.take(n * d);
  Recorder& recorder = ops.recorder();
  ops.project(w.inputs, normed.data, n, parts);
  for (const Segment& segment : segments) {
    recorder.weigh(segment.n * d * w.conv_width);
    recorder.run({"gated_convolution_f32"},
                 {recorder.in(segment.state_in, history),
                  recorder.in(parts + segment.row * 3 * d, segment.n * 3 * d),
                  recorder.in(w.conv, d * w.conv_width), recorder.in(w.conv_bias, d),
                  recorder.out(convolved + segment.row * d, segment.n * d),
                  recorder.out(segment.state_out, history), u32(segment.n), u32(d),
                  u32(w.conv_width), u32(w.conv_bias != nullptr)});
  }
  ops.project(w.out, convolved, n, out);
  ops.add(out, n * d, x);
}

}  // namespace moeflux::ops
