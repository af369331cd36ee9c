// Choice of experts.
#include "arguments.h"
#include "router.h"

// For each of n rows: the top_k experts by logit, ascending by id, and their softmax probabilities
// (over all experts), divided by their sum where normalise; with AllSteps the experts of the highest
// scores (0: softmax, 1: sigmoid) plus bias where has_bias, out of the top_groups of n_groups whose two
// highest are largest in sum, and their scores, divided by their sum plus sum_eps where normalise, times
// factor and, where has_factors, the factor of each. logits (n, n_experts), experts, weights (n, top_k),
// bias, factors (n_experts). A SIMD group per row.
/// @elements logits n * n_experts
/// @elements bias has_bias * n_experts
/// @elements factors has_factors * n_experts
/// @elements experts n * top_k
/// @elements weights n * top_k
/// @threadgroup 32
/// @default_threadgroup 32
/// @grid n * 32
/// @require AllSteps <= 1 && score <= 1 && has_bias <= 1 && has_factors <= 1
/// @require n_experts > 0
/// @require n_groups > 0 && n_groups <= 32 && n_experts % n_groups == 0
/// @require n_groups == 1 || n_experts / n_groups >= 2
/// @require top_groups > 0 && top_groups <= n_groups
/// @require top_k <= n_experts / n_groups * top_groups
/// @require grid == n * 32
kernel void router_top_k_f32(device const float* logits [[buffer(0)]],
                             device const float* bias [[buffer(1)]],
                             device const float* factors [[buffer(2)]],
                             device uint* experts [[buffer(3)]],
                             device float* weights [[buffer(4)]],
                             constant RouterArgs& args [[buffer(5)]],
                             uint row [[threadgroup_position_in_grid]],
                             uint lane [[thread_index_in_simdgroup]]) {
  const RouterSteps steps =
      router_steps(args.n_experts, args.top_k, args.normalise, args.score, args.n_groups,
                   args.top_groups, args.has_bias, args.has_factors, args.sum_eps, args.factor);
  choose_experts(logits + ulong(row) * args.n_experts, bias, factors,
                 experts + ulong(row) * args.top_k, weights + ulong(row) * args.top_k, steps, lane);
}
