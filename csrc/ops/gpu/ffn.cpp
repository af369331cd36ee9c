// Feed-forward networks over all rows: dense ones and the shared expert.
#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

void require_swiglu(const GatedFfn& w) {
  if (!w.is_swiglu() || w.interleaved)
    throw NoKernelError("[gpu::ffn] expected SwiGLU, found ",
                        w.interleaved           ? "gate and up in one matrix"
                        : w.unit == Unit::gelu  ? "a unit of GELU"
                        : w.unit == Unit::relu2 ? "a unit of squared ReLU"
                                                : "a clamped gated unit",
                        ", which no kernel of a device does; the CPU's do");
}

void GpuOps::ffn_rows(const GatedFfn& w, const FfnRows& rows, const float* x, uint32_t n,
                      float* out) {
  const uint64_t width = w.gate.out(), count = n * width;
  if (!fused_gate_up(recorder_, w.gate, w.up, x, n, rows.gate)) {
    project(w.gate, x, n, rows.gate);
    project(w.up, x, n, rows.up);
    const auto gate = recorder_.in(rows.gate, count), up = recorder_.in(rows.up, count),
               hidden = recorder_.out(rows.gate, count);
    if (n > 1)
      recorder_.run({"swiglu_fused_batched"}, {gate, up, hidden, u32(width), u32(n)});
    else
      recorder_.run({width % 4 == 0 ? "swiglu_fused_vec4" : "swiglu_fused"},
                    {gate, up, hidden, u32(width)});
  }
  project(w.down, rows.gate, n, out);
}

void GpuOps::ffn(const GatedFfn& w, const Rows& normed, float* out) {
  require_swiglu(w);
  Bump scratch = bump();
  ffn_rows(w, FfnRows(scratch, w, normed.n), normed.data, normed.n, out);
}

}  // namespace moeflux::ops::gpu
