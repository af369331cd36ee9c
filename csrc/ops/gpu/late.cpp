// Stages that end in a dispatch which waits for the stage behind it, since one kernel may do both:
// sums into the residual stream, whose norm is next, and choices of experts, which are looked up next.
// Alone or together, the bits are the same.
#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

template <class Stage>
void GpuOps::defer(const Stage& stage) {
  recorder_.defer([this] {
    std::visit(
        [&](const auto& late) {
          if constexpr (!std::is_same_v<decltype(late), const std::monostate&>) run(late);
        },
        std::exchange(late_, {}));
  });
  late_ = stage;
}
template void GpuOps::defer(const Late::Sum&);
template void GpuOps::defer(const Late::Combine&);
template void GpuOps::defer(const Late::Choice&);

void GpuOps::add(const float* y, uint64_t n, float* x) {
  defer(Late::Sum{y, n, x});
}

void GpuOps::run(const Late::Sum& sum) {
  const auto& [y, n, x] = sum;
  recorder_.run({"residual_add"},
                {recorder_.in(x, n), recorder_.in(y, n), recorder_.out(x, n), u32(n)});
}

void GpuOps::run(const Late::Combine& c) {
  const uint64_t count = uint64_t(c.n) * c.dim;
  recorder_.run(
      {"moe_combine_f32"},
      {recorder_.out(c.x, count), recorder_.in(c.routing.weights, uint64_t(c.n) * c.top_k),
       recorder_.in(c.expert_out, count * c.top_k), recorder_.in(c.shared, count),
       recorder_.in(c.gates, c.n)},
      MoeCombineArgs{c.n, c.dim, c.top_k, c.shared != nullptr, c.gates != nullptr, c.adds});
}

namespace {
// In the form of router_top_k_f32 and find_experts that does all steps of a router, or in the shorter one.
Recorder::Kernel router_kernel(std::string_view name, const Router& w) {
  if (w.is_plain_softmax()) return {name};
  return {name, "AllSteps", 1};
}
template <class Args>
Args router_args(const Router& w) {
  Args args{};
  args.n_experts = w.n_experts, args.top_k = w.top_k, args.normalise = w.normalise;
  args.score = static_cast<uint32_t>(w.score);
  args.n_groups = w.n_groups, args.top_groups = w.top_groups;
  args.has_bias = w.selection_bias != nullptr, args.has_factors = w.expert_scale != nullptr;
  args.sum_eps = w.sum_eps, args.factor = w.scale;
  return args;
}
}  // namespace

void GpuOps::run(const Late::Choice& choice) {
  const auto& [w, n, out] = choice;
  const uint64_t pairs = uint64_t(n) * w.top_k;
  auto args = router_args<RouterArgs>(w);
  args.n = n;
  recorder_.run(
      router_kernel("router_top_k_f32", w),
      {recorder_.in(out.logits, uint64_t(n) * w.n_experts),
       recorder_.in(w.selection_bias, w.n_experts), recorder_.in(w.expert_scale, w.n_experts),
       recorder_.out(out.experts, pairs), recorder_.out(out.weights, pairs)},
      args);
}

bool GpuOps::norm_with(const Late::Sum& sum, const float* weight, float eps, const float* x,
                       uint32_t n, uint32_t dim, float* out) {
  const uint64_t count = uint64_t(n) * dim;
  if (sum.x != x || sum.n != count) return false;
  recorder_.drop_deferred();
  recorder_.run_groups({"residual_norm_f32"}, n,
                       {recorder_.out(sum.x, count), recorder_.in(sum.y, count),
                        recorder_.in(weight, dim), recorder_.out(out, count), u32(dim), f32(eps)});
  return true;
}

bool GpuOps::norm_with(const Late::Combine& c, const float* weight, float eps, const float* x,
                       uint32_t n, uint32_t dim, float* out) {
  if (c.x != x || c.n != n || c.dim != dim) return false;
  const uint64_t count = uint64_t(n) * dim;
  recorder_.drop_deferred();
  recorder_.run({"moe_combine_norm_f32"},
                {recorder_.out(c.x, count), recorder_.in(c.routing.weights, uint64_t(n) * c.top_k),
                 recorder_.in(c.expert_out, count * c.top_k), recorder_.in(c.shared, count),
                 recorder_.in(c.gates, n), recorder_.in(weight, dim), recorder_.out(out, count)},
                MoeCombineNormArgs{n, dim, c.top_k, c.shared != nullptr, c.gates != nullptr, eps});
  return true;
}

void GpuOps::norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                  float* out) {
  const auto late = std::exchange(late_, {});
  if (const auto* sum = std::get_if<Late::Sum>(&late))
    if (norm_with(*sum, weight, eps, x, n, dim, out)) return;
  if (const auto* combine = std::get_if<Late::Combine>(&late))
    if (norm_with(*combine, weight, eps, x, n, dim, out)) return;
  late_ = late;
  const uint64_t count = uint64_t(n) * dim;
  recorder_.run_groups({"rms_norm_f32"}, n,
                       {recorder_.in(x, count), recorder_.in(weight, dim),
                        recorder_.out(out, count), u32(dim), f32(eps)});
}

void GpuOps::find(const Lookup& l, const GatedFfn& expert) {
  const auto late = std::exchange(late_, {});
  const auto* choice = std::get_if<Late::Choice>(&late);
  if (!choice || choice->n != 1 || choice->out.experts != l.chosen)
    throw GpuError("[gpu::find] expected the stage before to be the route() of what is looked up");
  recorder_.drop_deferred();
  const auto& [w, n, out] = *choice;
  const auto [slabs, n_slabs] = this->slabs();
  auto args = router_args<FindExpertsArgs>(w);
  args.dim = l.dim, args.n_slabs = n_slabs, args.words = slot_words(expert);
  recorder_.run(
      router_kernel("find_experts", w),
      {slabs, recorder_.in(out.logits, w.n_experts), recorder_.in(w.selection_bias, w.n_experts),
       recorder_.in(w.expert_scale, w.n_experts), recorder_.in(l.table, w.n_experts),
       recorder_.in(l.x, l.dim), recorder_.out(out.experts, w.top_k),
       recorder_.out(out.weights, w.top_k), recorder_.out(l.stopped, 1),
       recorder_.out(l.places, w.top_k), recorder_.out(l.note, w.top_k + uint64_t{1}),
       recorder_.out(l.saved, l.dim)},
      args);
}

}  // namespace moeflux::ops::gpu
