// Adds the splits of attention: of one token, or of a prompt of few rows.
#include "kv_cache.h"

constant constexpr uint kMergeSimdgroups = 8;  // of a threadgroup
constant constexpr uint kMergeThreads = kMergeSimdgroups * kSimdWidth;
constant constexpr uint kMergeAhead = 8;  // numbers that a lane loads before it adds them

// out[h] = sum over splits s of exp(m_s - M) partial[s, h] / sum of exp(m_s - M) total_s, where M is
// the largest m; with n_sinks, sinks[h % n_sinks] is one more m, whose total is 1 and whose values are 0.
// partial (splits, heads, head_dim), stats (splits, heads, 2), out (heads, head_dim), sinks (n_sinks).
// A threadgroup per head: 128 channels at a time, 256 splits, a SIMD group every eighth of them.
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
  threadgroup float4 sums[kMergeThreads];
  threadgroup float weights[kMergeThreads];
  threadgroup float scratch[kMaxSimdgroups];
  float top = args.n_sinks ? sinks[head % args.n_sinks] : -INFINITY;
  for (uint s = thread_index; s < args.splits; s += kMergeThreads)
    top = max(top, stats[(ulong(s) * args.heads + head) * 2]);
  top = threadgroup_max(top, scratch, lane, simdgroup, kMergeSimdgroups);
  const ulong step = ulong(args.heads) * args.head_dim;  // from split to split
  for (uint channel = lane * 4; channel - lane * 4 < args.head_dim; channel += kSimdWidth * 4) {
    const bool live = channel < args.head_dim;
    device const float* column = partial + ulong(head) * args.head_dim + (live ? channel : 0);
    float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
    float total = 0.0f;
    for (uint begin = 0; begin < args.splits; begin += kMergeThreads) {
      const uint n = min(args.splits - begin, kMergeThreads);
      threadgroup_barrier(mem_flags::mem_threadgroup);  // those before have been read
      float weight = 0.0f;
      if (thread_index < n) {
        device const float* stat = stats + (ulong(begin + thread_index) * args.heads + head) * 2;
        weight = precise::exp(stat[0] - top);
        total = fma(weight, stat[1], total);
      }
      weights[thread_index] = weight;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint s = simdgroup; s < n; s += kMergeAhead * kMergeSimdgroups) {
        float4 ahead[kMergeAhead];
#pragma unroll
        for (uint i = 0; i < kMergeAhead; ++i)
          ahead[i] = load4(column + (begin + min(s + i * kMergeSimdgroups, n - 1)) * step);
#pragma unroll
        for (uint i = 0; i < kMergeAhead; ++i) {
          const float w = s + i * kMergeSimdgroups < n ? weights[s + i * kMergeSimdgroups] : 0.0f;
          sum = fma(float4(w, w, w, w), ahead[i], sum);
        }
      }
    }
    total = threadgroup_sum(total, scratch, lane, simdgroup, kMergeSimdgroups);
    sums[thread_index] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0 && live) {
      if (args.n_sinks) total += precise::exp(sinks[head % args.n_sinks] - top);
      for (uint s = 1; s < kMergeSimdgroups; ++s) sum += sums[s * kSimdWidth + lane];
      *(device float4*)(out + ulong(head) * args.head_dim + channel) = sum / total;
    }
  }
}
