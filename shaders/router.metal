// Choice of experts.
#include "common.h"

// Whether expert j is taken before expert i: by logit, NaN last, ties by the lower index.
inline bool goes_before(float other, uint j, float own, uint i) {
  if (isnan(other) != isnan(own)) return isnan(own);
  if (isnan(own) || other == own) return j < i;
  return other > own;
}

// For each row: the top_k experts by logit, ascending by id, and their softmax probabilities (over
// all experts), divided by their sum where normalise. logits (n, n_experts), experts, weights
// (n, top_k). A threadgroup per row: a thread counts the experts that go before its own, so it
// knows alone whether it is taken; prefix sums over the threads give the place.
/// @elements logits groups * n_experts
/// @elements experts groups * top_k
/// @elements weights groups * top_k
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid len(logits) / n_experts * threads
/// @require n_experts > 0
/// @require top_k <= n_experts
/// @require grid % threads == 0
kernel void router_top_k_f32(device const float* logits [[buffer(0)]],
                             device uint* experts [[buffer(1)]],
                             device float* weights [[buffer(2)]],
                             constant uint& n_experts [[buffer(3)]],
                             constant uint& top_k [[buffer(4)]],
                             constant uint& normalise [[buffer(5)]],
                             uint row [[threadgroup_position_in_grid]],
                             uint thread_index [[thread_index_in_threadgroup]],
                             uint threads [[threads_per_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simdgroup [[simdgroup_index_in_threadgroup]],
                             uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  threadgroup uint counts[kMaxSimdgroups];
  device const float* own = logits + ulong(row) * n_experts;
  float top = -INFINITY;
  for (uint i = thread_index; i < n_experts; i += threads) top = max(top, own[i]);
  top = threadgroup_max(top, scratch, lane, simdgroup, simdgroups);
  float total = 0.0f;
  for (uint i = thread_index; i < n_experts; i += threads) total += precise::exp(own[i] - top);
  total = threadgroup_sum(total, scratch, lane, simdgroup, simdgroups);

  const ulong out_at = ulong(row) * top_k;
  uint placed = 0;
  float chosen = 0.0f;  // probabilities of this thread's experts that are taken
  for (uint begin = 0; begin < n_experts; begin += threads) {
    const uint i = begin + thread_index;
    uint before = n_experts;
    if (i < n_experts) {
      before = 0;
      for (uint j = 0; j < n_experts; ++j) before += goes_before(own[j], j, own[i], i) ? 1 : 0;
    }
    const uint taken = before < top_k ? 1 : 0;
    const uint in_simdgroup = simd_prefix_exclusive_sum(taken);
    const uint count = of_simdgroups(simd_sum(taken), 0u, counts, lane, simdgroup, simdgroups);
    const uint below = simd_sum(lane < simdgroup ? count : 0);
    const uint place = placed + below + in_simdgroup;
    placed += simd_sum(count);
    if (taken != 0) {
      const float p = precise::exp(own[i] - top) / total;
      chosen += p;
      experts[out_at + place] = i;
      weights[out_at + place] = p;
    }
  }
  if (normalise == 0) return;  // the whole threadgroup
  chosen = simd_sum(chosen);
  if (lane == 0) scratch[simdgroup] = chosen;
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);  // weights, scratch
  chosen = simd_sum(lane < simdgroups ? scratch[lane] : 0.0f);
  for (uint k = thread_index; k < top_k; k += threads) weights[out_at + k] /= chosen;
}
