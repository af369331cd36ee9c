// The choice of experts, and the sum of what they gave.
#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {
constexpr uint32_t kMostGroups = 32;  // a lane of a SIMD group each (shaders/router.h)
}  // namespace

void GpuOps::route(const Router& w, const Rows& normed, const Routing& out) {
  if (w.n_groups > kMostGroups)
    throw NoKernelError("[gpu::route] groups of experts: expected at most ", kMostGroups,
                        ", found ", w.n_groups, ", which no kernel of a device does; the CPU's do");
  project(w.gate, normed.data, normed.n, out.logits);
  defer(Late::Choice{w, normed.n, out});
}

void GpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const Rows& normed, const float* shared,
                     uint32_t dim, float* x) {
  const uint32_t n = normed.n;
  float* gates = nullptr;
  if (shared && shared_gate) {
    gates = bump().take(n);
    project(*shared_gate, normed.data, n, gates);
  }
  defer(Late::Combine{routing, top_k, expert_out, shared, gates, n, dim, x});
}

void GpuOps::combine_latent(const Routing& routing, uint32_t top_k, const float* expert_out,
                            const Linear& w, const float* shared, uint32_t n, float* x) {
  const uint64_t count = uint64_t(n) * w.out();
  Bump scratch = bump();
  float *total = scratch.take(uint64_t(n) * w.in()), *out = scratch.take(count);
  run(Late::Combine{routing, top_k, expert_out, nullptr, nullptr, n, w.in(), total, false});
  project(w, total, n, out);
  if (shared) run(Late::Sum{shared, count, out});
  add(out, count, x);
}

}  // namespace moeflux::ops::gpu
