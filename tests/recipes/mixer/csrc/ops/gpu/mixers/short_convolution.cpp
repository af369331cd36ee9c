#include "ops/mixers/short_convolution.h"

#include "ops/gpu/stages.h"

namespace moeflux::ops {

void mix(gpu::GpuOps& ops, const ShortConvolution& w, Segments segments, const Rows& normed,
         float* x) {
  const uint32_t d = w.out.in();
  const uint64_t all = uint64_t(normed.n) * d, history = uint64_t(w.width - 1) * d;
  gpu::Recorder& recorder = ops.recorder();
  gpu::Bump bump = ops.bump();
  float *mixed = bump.take(all), *out = bump.take(all);
  for (const Segment& segment : segments) {
    const uint64_t at = uint64_t(segment.row) * d, count = uint64_t(segment.n) * d;
    recorder.weigh(count * w.width);
    recorder.run({"conv1d_f32"},
                 {recorder.in(segment.state_in, history), recorder.in(normed.data + at, count),
                  recorder.in(w.conv, uint64_t(d) * w.width), gpu::Place{},
                  recorder.out(mixed + at, count), recorder.out(segment.state_out, history),
                  gpu::u32(segment.n), gpu::u32(d), gpu::u32(w.width), gpu::u32(0)});
  }
  ops.project(w.out, mixed, normed.n, out);
  ops.add(out, all, x);
}

}  // namespace moeflux::ops
