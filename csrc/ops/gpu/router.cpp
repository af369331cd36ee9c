// The choice of experts, and the sum of what they gave.
#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {
// What of a router router_top_k_f32 does not do, "" where it does all.
std::string beyond_kernel(const Router& w) {
  if (w.score != Score::softmax) return cat(kScoreNames[static_cast<size_t>(w.score)], " scores");
  if (w.n_groups > 1) return cat(w.n_groups, " groups of experts");
  if (w.selection_bias) return "a bias of the choice";
  if (w.expert_scale) return "factors of experts";
  if (w.scale != 1 || w.sum_eps != 0) return "weights times a factor or with an epsilon";
  return {};
}
}  // namespace

void GpuOps::route(const Router& w, const Rows& normed, const Routing& out) {
  if (const std::string found = beyond_kernel(w); !found.empty())
    throw NoKernelError("[gpu::route] expected a softmax router, found ", found,
                        ", which no kernel of a device does; the CPU's do");
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

}  // namespace moeflux::ops::gpu
