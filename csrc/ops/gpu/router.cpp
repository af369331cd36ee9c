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
  if (w.scale != 1 || w.sum_eps != 0) return "weights times a factor or with an epsilon";
  return {};
}
}  // namespace

void GpuOps::route(const Router& w, const Rows& normed, const Routing& out) {
  if (const std::string found = beyond_kernel(w); !found.empty())
    throw NoKernelError("[gpu::route] expected a softmax router, found ", found,
                      ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  const uint64_t pairs = uint64_t(n) * w.top_k;
  project(w.gate, normed.data, n, out.logits);
  recorder_.run_groups(
      {"router_top_k_f32"}, n,
      {recorder_.in(out.logits, uint64_t(n) * w.n_experts), recorder_.out(out.experts, pairs),
       recorder_.out(out.weights, pairs), u32(w.n_experts), u32(w.top_k), u32(w.normalise)});
}

void GpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const Rows& normed, const float* shared,
                     uint32_t dim, float* x) {
  const uint32_t n = normed.n;
  const uint64_t count = uint64_t(n) * dim;
  float* gates = nullptr;
  if (shared && shared_gate) {
    gates = bump().take(n);
    project(*shared_gate, normed.data, n, gates);
  }
  recorder_.run({"moe_combine_f32"},
                {recorder_.out(x, count), recorder_.in(routing.weights, uint64_t(n) * top_k),
                 recorder_.in(expert_out, count * top_k), recorder_.in(shared, count),
                 recorder_.in(gates, n)},
                MoeCombineArgs{n, dim, top_k, shared != nullptr, gates != nullptr});
}

}  // namespace moeflux::ops::gpu
