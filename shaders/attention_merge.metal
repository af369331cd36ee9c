// Adds the splits of attention: of one token, or of a prompt of few rows.
#include "kv_cache.h"

constant constexpr uint kMergeSimdgroups = 8;  // of a threadgroup

// out[h] = sum over splits s of exp(m_s - M) partial[s, h] / sum of exp(m_s - M) total_s, where M is
// the largest m; with n_sinks, sinks[h % n_sinks] is one more m, whose total is 1 and whose values are 0.
// partial (splits, heads, head_dim), stats (splits, heads, 2), out (heads, head_dim), sinks (n_sinks).
// A threadgroup per head: 128 channels at a time, a SIMD group every eighth split.
/// @aligned partial 16
/// @aligned out 16
/// @elements partial splits * heads * head_dim
/// @elements stats splits * heads * 2
/// @elements sinks n_sinks
/// @elements out heads * head_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid heads * 256
/// @require head_dim % 4 == 0
/// @require grid == heads * 256
kernel void attention_merge_f32(device const float* partial [[buffer(0)]],
                                device const float* stats [[buffer(1)]],
                                device const float* sinks [[buffer(2)]],
                                device float* out [[buffer(3)]],
                                constant AttentionMergeArgs& args [[buffer(4)]],
                                uint head [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 sums[kMergeSimdgroups * kSimdWidth];
  threadgroup float totals[kMergeSimdgroups];
  threadgroup float scratch[kMaxSimdgroups];
  float top = args.n_sinks ? sinks[head % args.n_sinks] : -INFINITY;
  for (uint s = thread_index; s < args.splits; s += kMergeSimdgroups * kSimdWidth)
    top = max(top, stats[(ulong(s) * args.heads + head) * 2]);
  top = threadgroup_max(top, scratch, lane, simdgroup, kMergeSimdgroups);
  for (uint channel = lane * 4; channel - lane * 4 < args.head_dim; channel += kSimdWidth * 4) {
    const bool live = channel < args.head_dim;
    float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
    float total = 0.0f;
    for (uint s = simdgroup; s < args.splits; s += kMergeSimdgroups) {
      const ulong at = ulong(s) * args.heads + head;
      const float weight = precise::exp(stats[at * 2] - top);
      total = fma(weight, stats[at * 2 + 1], total);
      if (live)
        sum = fma(float4(weight, weight, weight, weight),
                  load4(partial + at * args.head_dim + channel), sum);
    }
    sums[simdgroup * kSimdWidth + lane] = sum;
    if (lane == 0) totals[simdgroup] = total;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0 && live) {
      total = args.n_sinks ? precise::exp(sinks[head % args.n_sinks] - top) : 0.0f;
      sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
      for (uint s = 0; s < kMergeSimdgroups; ++s) {
        sum += sums[s * kSimdWidth + lane];
        total += totals[s];
      }
      *(device float4*)(out + ulong(head) * args.head_dim + channel) = sum / total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // before they are written again
  }
}
