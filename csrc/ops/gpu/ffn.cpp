// Feed-forward networks over all rows: dense ones and the shared expert.
#include "base/error.h"
#include "ops/gpu/activation.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

void require_form(const GatedFfn& w) {
  if (w.interleaved)
    throw NoKernelError(
        "[gpu::ffn] expected gate and up in matrices of their own, found them in one, which no "
        "kernel of a device does; the CPU's do");
}

void GpuOps::activate(const GatedFfn& w, const float* up, uint32_t n, float* gate) {
  const uint64_t width = w.gate.out(), count = n * width;
  const auto in = recorder_.in(gate, count), hidden = recorder_.out(gate, count);
  if (!w.is_swiglu())
    recorder_.run(with_activation({"activate_f32"}, w),
                  {in, w.has_up() ? recorder_.in(up, count) : in, hidden},
                  ActivateArgs{word(count), limit_of(w), w.alpha, w.up_add});
  else if (n > 1)
    recorder_.run({"swiglu_fused_batched"},
                  {in, recorder_.in(up, count), hidden, u32(width), u32(n)});
  else
    recorder_.run({width % 4 == 0 ? "swiglu_fused_vec4" : "swiglu_fused"},
                  {in, recorder_.in(up, count), hidden, u32(width)});
}

void GpuOps::ffn_rows(const GatedFfn& w, const FfnRows& rows, const float* x, uint32_t n,
                      float* out) {
  if (!fused_gate_up(recorder_, w, x, n, rows.gate)) {
    project(w.gate, x, n, rows.gate);
    if (w.has_up()) project(w.up, x, n, rows.up);
    activate(w, rows.up, n, rows.gate);
  }
  project(w.down, rows.gate, n, out);
}

void GpuOps::ffn(const GatedFfn& w, const Rows& normed, float* out) {
  require_form(w);
  Bump scratch = bump();
  ffn_rows(w, FfnRows(scratch, w, normed.n), normed.data, normed.n, out);
}

}  // namespace moeflux::ops::gpu
