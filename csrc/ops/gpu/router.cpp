// The choice of experts, and the sum of what they gave.
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

void GpuOps::route(const Router& w, const Rows& normed, const Routing& out) {
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
