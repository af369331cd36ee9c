// Attention of one token over a long KV cache: positions are split into chunks, a threadgroup per
// chunk and head, and a second kernel merges them. Nothing grows with the context but the number
// of chunks.
#include "arguments.h"
#include "common.h"

constant constexpr uint kBlock = 256;  // positions whose weights are held in threadgroup memory

// For chunk c of the positions and head h, over positions p of the chunk:
//   m = max of scale * q . k_p;  partial[c, h] = sum of exp(.. - m) v_p;  stats[c, h] = (m, sum of
//   exp(.. - m)); an empty chunk gives m = -inf.
// q (heads, head_dim), keys, values (kv_len, kv_dim), partial (chunks, heads, head_dim), stats
// (chunks, heads, 2). Threadgroup h + c * heads; a SIMD group per position for the scores, a thread
// per channel for the sum; chunks of ceil(kv_len / chunks) positions.
/// @elements q heads * head_dim
/// @elements keys kv_len * kv_dim
/// @elements values kv_len * kv_dim
/// @elements partial chunks * heads * head_dim
/// @elements stats chunks * heads * 2
/// @threadgroup multiple of 32
/// @default_threadgroup 128
/// @grid chunks * heads * threads
/// @require heads_per_kv > 0
/// @require ceil_div(heads, heads_per_kv) * head_dim <= kv_dim
/// @require grid == chunks * heads * threads
kernel void attention_decode_f32(device const float* q [[buffer(0)]],
                                 device const float* keys [[buffer(1)]],
                                 device const float* values [[buffer(2)]],
                                 device float* partial [[buffer(3)]],
                                 device float* stats [[buffer(4)]],
                                 constant AttentionDecodeArgs& args [[buffer(5)]],
                                 uint group [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]],
                                 uint threads [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                                 uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float weights[kBlock];
  threadgroup float scratch[kMaxSimdgroups];
  const uint head = group % args.heads;
  const uint chunk = group / args.heads;
  const uint chunk_len = (args.kv_len + args.chunks - 1) / args.chunks;
  const uint begin = min(chunk * chunk_len, args.kv_len);
  const uint end = min(begin + chunk_len, args.kv_len);
  const ulong kv_at = ulong(head / args.heads_per_kv) * args.head_dim;
  device const float* query = q + ulong(head) * args.head_dim;
  device float* sum = partial + (ulong(chunk) * args.heads + head) * args.head_dim;
  for (uint d = thread_index; d < args.head_dim; d += threads) sum[d] = 0.0f;
  float top = -INFINITY;
  float total = 0.0f;
  for (uint block = begin; block < end; block += kBlock) {
    const uint n = min(kBlock, end - block);
    for (uint p = simdgroup; p < n; p += simdgroups) {
      device const float* key = keys + ulong(block + p) * args.kv_dim + kv_at;
      float dot = 0.0f;
      for (uint d = lane; d < args.head_dim; d += kSimdWidth) dot = fma(query[d], key[d], dot);
      dot = simd_sum(dot);
      if (lane == 0) weights[p] = dot * args.scale;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float block_top = -INFINITY;
    for (uint p = thread_index; p < n; p += threads) block_top = max(block_top, weights[p]);
    block_top = threadgroup_max(block_top, scratch, lane, simdgroup, simdgroups);
    const float new_top = max(top, block_top);
    const float shrink = precise::exp(top - new_top);  // 0 at first
    float block_total = 0.0f;
    for (uint p = thread_index; p < n; p += threads) {
      weights[p] = precise::exp(weights[p] - new_top);
      block_total += weights[p];
    }
    // Its barriers also show every thread the weights.
    total = total * shrink + threadgroup_sum(block_total, scratch, lane, simdgroup, simdgroups);
    top = new_top;
    for (uint d = thread_index; d < args.head_dim; d += threads) {
      device const float* value = values + ulong(block) * args.kv_dim + kv_at + d;
      float2 added = float2(0.0f, 0.0f);
      uint p = 0;
      for (; p + 2 <= n; p += 2)
        added =
            fma(float2(weights[p], weights[p + 1]),
                float2(value[ulong(p) * args.kv_dim], value[ulong(p + 1) * args.kv_dim]), added);
      if (p < n) added.x = fma(weights[p], value[ulong(p) * args.kv_dim], added.x);
      sum[d] = fma(sum[d], shrink, added.x + added.y);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the weights have been read
  }
  if (thread_index == 0) {
    stats[(ulong(chunk) * args.heads + head) * 2] = top;
    stats[(ulong(chunk) * args.heads + head) * 2 + 1] = total;
  }
}

// out[h] = sum over chunks of exp(m_c - M) partial[c, h] / sum over chunks of exp(m_c - M) total_c,
// M the largest m; shapes as attention_decode_f32, out (heads, head_dim). A thread per channel.
/// @elements partial chunks * heads * head_dim
/// @elements stats chunks * heads * 2
/// @elements out heads * head_dim
/// @threadgroup any
/// @default_threadgroup 128
/// @grid heads * head_dim
/// @require grid >= heads * head_dim
kernel void attention_merge_f32(device const float* partial [[buffer(0)]],
                                device const float* stats [[buffer(1)]],
                                device float* out [[buffer(2)]],
                                constant uint& heads [[buffer(3)]],
                                constant uint& head_dim [[buffer(4)]],
                                constant uint& chunks [[buffer(5)]],
                                uint i [[thread_position_in_grid]]) {
  if (i >= heads * head_dim) return;
  const uint head = i / head_dim;
  float top = -INFINITY;
  for (uint c = 0; c < chunks; ++c) top = max(top, stats[(ulong(c) * heads + head) * 2]);
  float sum = 0.0f;
  float total = 0.0f;
  for (uint c = 0; c < chunks; ++c) {
    const ulong at = ulong(c) * heads + head;
    const float weight = precise::exp(stats[at * 2] - top);
    sum = fma(weight, partial[ulong(c) * heads * head_dim + i], sum);
    total = fma(weight, stats[at * 2 + 1], total);
  }
  out[i] = sum / total;
}
