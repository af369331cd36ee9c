// Choice of experts.
#include "router.h"

// For each row: the top_k experts by logit, ascending by id, and their softmax probabilities (over
// all experts), divided by their sum where normalise. logits (n, n_experts), experts, weights
// (n, top_k). A SIMD group per row.
/// @elements logits groups * n_experts
/// @elements experts groups * top_k
/// @elements weights groups * top_k
/// @threadgroup 32
/// @default_threadgroup 32
/// @grid len(logits) / n_experts * 32
/// @require n_experts > 0
/// @require top_k <= n_experts
/// @require grid % 32 == 0
kernel void router_top_k_f32(device const float* logits [[buffer(0)]],
                             device uint* experts [[buffer(1)]],
                             device float* weights [[buffer(2)]],
                             constant uint& n_experts [[buffer(3)]],
                             constant uint& top_k [[buffer(4)]],
                             constant uint& normalise [[buffer(5)]],
                             uint row [[threadgroup_position_in_grid]],
                             uint lane [[thread_index_in_simdgroup]]) {
  choose_experts(logits + ulong(row) * n_experts, experts + ulong(row) * top_k,
                 weights + ulong(row) * top_k, n_experts, top_k, normalise != 0, lane);
}
