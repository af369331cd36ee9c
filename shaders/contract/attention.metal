// Attention of one token over a KV cache, in three steps: scores, softmax, values.
#include "../common.h"

// scores[h, p] = scale * Q[h] . K_cache[p, kv_head(h)] for p < seq_len, kv_head = h / heads_per_kv;
// Q (H, head_dim), K_cache (S, kv_dim), scores (H, seq_stride). Threadgroup p + h * num_seq_tgs
// computes position p of head h, and p + num_seq_tgs, ... where there are fewer than seq_len.
/// @elements Q groups / num_seq_tgs * head_dim
/// @elements K_cache seq_len * kv_dim
/// @elements scores groups / num_seq_tgs * seq_stride
/// @threadgroup multiple of 32
/// @default_threadgroup 32
/// @grid len(Q) / head_dim * num_seq_tgs * threads
/// @require head_dim > 0
/// @require heads_per_kv > 0
/// @require num_seq_tgs > 0
/// @require seq_len <= seq_stride
/// @require grid % threads == 0
/// @require groups % num_seq_tgs == 0
/// @require ceil_div(groups / num_seq_tgs, heads_per_kv) * head_dim <= kv_dim
kernel void attn_scores_batched(device const float* Q [[buffer(0)]],
                                device const float* K_cache [[buffer(1)]],
                                device float* scores [[buffer(2)]],
                                constant uint& head_dim [[buffer(3)]],
                                constant uint& kv_dim [[buffer(4)]],
                                constant uint& seq_len [[buffer(5)]],
                                constant uint& seq_stride [[buffer(6)]],
                                constant float& scale [[buffer(7)]],
                                constant uint& heads_per_kv [[buffer(8)]],
                                constant uint& num_seq_tgs [[buffer(9)]],
                                uint group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint threads [[threads_per_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simdgroup [[simdgroup_index_in_threadgroup]],
                                uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  const uint head = group / num_seq_tgs;
  device const float* q = Q + ulong(head) * head_dim;
  device const float* keys = K_cache + ulong(head / heads_per_kv) * head_dim;
  device float* row = scores + ulong(head) * seq_stride;
  for (ulong p = group % num_seq_tgs; p < seq_len; p += num_seq_tgs) {
    device const float* key = keys + p * kv_dim;
    float dot = 0.0f;
    for (uint d = thread_index; d < head_dim; d += threads) dot = fma(q[d], key[d], dot);
    dot = threadgroup_sum(dot, scratch, lane, simdgroup, simdgroups);
    if (thread_index == 0) row[p] = dot * scale;
  }
}

// Softmax of the first seq_len entries of each row, less the row's maximum; scores (H, seq_stride).
// A threadgroup per row; a thread reads again only what it has written itself.
/// @elements scores groups * seq_stride
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid len(scores) / seq_stride * threads
/// @require seq_len <= seq_stride
/// @require grid % threads == 0
kernel void attn_softmax_batched(device float* scores [[buffer(0)]],
                                 constant uint& seq_len [[buffer(1)]],
                                 constant uint& seq_stride [[buffer(2)]],
                                 uint head [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]],
                                 uint threads [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                                 uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  device float* row = scores + ulong(head) * seq_stride;
  float top = -INFINITY;
  for (uint p = thread_index; p < seq_len; p += threads) top = max(top, row[p]);
  top = threadgroup_max(top, scratch, lane, simdgroup, simdgroups);
  float sum = 0.0f;
  for (uint p = thread_index; p < seq_len; p += threads) {
    const float e = precise::exp(row[p] - top);
    row[p] = e;
    sum += e;
  }
  const float scale = 1.0f / threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  for (uint p = thread_index; p < seq_len; p += threads) row[p] *= scale;
}

// out[h, d] = sum over p < seq_len of scores[h, p] * V_cache[p, kv_head(h), d];
// scores (H, seq_stride), V_cache (S, kv_dim), out (H, head_dim). A thread per (h, d): neighbours
// read neighbouring channels; four sums in flight hide the latency of the loads.
/// @elements scores grid / head_dim * seq_stride
/// @elements V_cache seq_len * kv_dim
/// @elements out grid
/// @threadgroup any
/// @default_threadgroup 256
/// @grid len(out)
/// @require head_dim > 0
/// @require heads_per_kv > 0
/// @require seq_len <= seq_stride
/// @require grid % head_dim == 0
/// @require ceil_div(grid / head_dim, heads_per_kv) * head_dim <= kv_dim
kernel void attn_values_batched(device const float* scores [[buffer(0)]],
                                device const float* V_cache [[buffer(1)]],
                                device float* out [[buffer(2)]],
                                constant uint& head_dim [[buffer(3)]],
                                constant uint& kv_dim [[buffer(4)]],
                                constant uint& seq_len [[buffer(5)]],
                                constant uint& seq_stride [[buffer(6)]],
                                constant uint& heads_per_kv [[buffer(7)]],
                                uint i [[thread_position_in_grid]]) {
  const uint head = i / head_dim;
  const uint d = i % head_dim;
  device const float* row = scores + ulong(head) * seq_stride;
  device const float* value = V_cache + ulong(head / heads_per_kv) * head_dim + d;
  float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
  uint p = 0;
  for (; p + 4 <= seq_len; p += 4) {
    const float4 weight = float4(row[p], row[p + 1], row[p + 2], row[p + 3]);
    const float4 v = float4(value[0], value[kv_dim], value[2ul * kv_dim], value[3ul * kv_dim]);
    sum = fma(weight, v, sum);
    value += 4ul * kv_dim;
  }
  for (; p < seq_len; ++p) {
    sum.x = fma(row[p], value[0], sum.x);
    value += kv_dim;
  }
  out[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
