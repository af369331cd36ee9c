// What stands between the products of attention and its sums: norms and rotary positions of queries
// and keys, and the way of keys and values into the cache.
#include "attention_head.h"

constant constexpr uint kRowSimdgroups = 8;  // of a threadgroup

// For each head of each row: y = norm ? rms_norm(x) * weight : x, and the first rotary_dim channels
// of y turn in pairs (i, i + rotary_dim / 2) by position * inv_freq[i]. q turns in place; keys = y
// of k; values = v, as it is or, with norm_v, normed without a weight. v may be k. Row r is at position `position + r`. q (n, heads, head_dim), k, v,
// keys, values (n, kv_heads, head_dim): the last two are these positions of a cache. q_norm, k_norm
// (head_dim), inv_freq (rotary_dim / 2). A SIMD group per head and row. Angles are products of
// floats, as the models were trained with; sin and cos are precise, since angles go far beyond pi.
/// @elements q n * heads * head_dim
/// @elements k n * kv_heads * head_dim
/// @elements v n * kv_heads * head_dim
/// @elements keys n * kv_heads * head_dim
/// @elements values n * kv_heads * head_dim
/// @elements q_norm norm_q > 0 ? head_dim : 0
/// @elements k_norm norm_k > 0 ? head_dim : 0
/// @elements inv_freq rotary_dim / 2
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(n * (heads + 2 * kv_heads), 8) * 256
/// @require rotary_dim <= head_dim && rotary_dim % 2 == 0
/// @require grid == ceil_div(n * (heads + 2 * kv_heads), 8) * 256
template <typename T>
kernel void attention_rows(device float* q [[buffer(0)]],
                           device const float* k [[buffer(1)]],
                           device const float* v [[buffer(2)]],
                           device T* keys [[buffer(3)]],
                           device T* values [[buffer(4)]],
                           device const float* q_norm [[buffer(5)]],
                           device const float* k_norm [[buffer(6)]],
                           device const float* inv_freq [[buffer(7)]],
                           constant AttentionRowsArgs& args [[buffer(8)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint heads = args.heads + 2 * args.kv_heads;
  const uint unit = group * kRowSimdgroups + simdgroup;
  if (unit >= args.n * heads) return;  // the whole SIMD group
  const uint row = unit / heads;
  const uint head = unit % heads;
  const bool is_q = head < args.heads;
  const bool is_v = head >= args.heads + args.kv_heads;
  const uint kv_head = is_q ? 0 : (head - args.heads) % args.kv_heads;
  const ulong q_at = (ulong(row) * args.heads + head) * args.head_dim;
  const ulong kv_at = (ulong(row) * args.kv_heads + kv_head) * args.head_dim;
  if (is_v) {
    device const float* value = v + kv_at;
    const float scale = head_scale(value, args.head_dim, args.norm_v != 0, args.eps, lane);
    for (uint i = lane; i < args.head_dim; i += kSimdWidth)
      store(values + kv_at + i, value[i] * scale);
    return;
  }
  device const float* from = is_q ? q + q_at : k + kv_at;
  device const float* weight = is_q ? q_norm : k_norm;
  const bool normed = (is_q ? args.norm_q : args.norm_k) != 0;
  const HeadTurn turn = head_turn(from, args.head_dim, args.rotary_dim, normed, args.eps,
                                  args.position + row, args.rope_scale, lane);
  simdgroup_barrier(mem_flags::mem_device);  // q has been read before it is written
  const uint pairs = args.rotary_dim / 2;
  for (uint i = lane; i < pairs; i += kSimdWidth) {
    const float2 y = turned_pair(from, weight, inv_freq, turn, i);
    if (is_q) {
      q[q_at + i] = y.x;
      q[q_at + i + pairs] = y.y;
    } else {
      store(keys + kv_at + i, y.x);
      store(keys + kv_at + i + pairs, y.y);
    }
  }
  for (uint i = args.rotary_dim + lane; i < args.head_dim; i += kSimdWidth) {
    const float y = head_channel(from, weight, turn, i);
    if (is_q)
      q[q_at + i] = y;
    else
      store(keys + kv_at + i, y);
  }
}

template [[host_name(
    "attention_rows_f32")]] kernel decltype(attention_rows<float>) attention_rows<float>;
template
    [[host_name("attention_rows_bf16")]] kernel decltype(attention_rows<bf16>) attention_rows<bf16>;
