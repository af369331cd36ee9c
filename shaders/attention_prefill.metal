// Causal attention of many tokens over a KV cache, in one pass over it (online softmax): memory
// does not depend on the context.
#include "arguments.h"
#include "common.h"

constant constexpr uint kQueries = 16;    // tokens of one head a threadgroup
constant constexpr uint kPositions = 64;  // of the cache at a time
constant constexpr uint kChannels = 32;   // of a head at a time
constant constexpr uint kKeyPitch = 33;   // one more: columns of a tile lie in different banks
constant constexpr uint kThreads = 256;

// rows [first, first + n_rows) x channels [channel, channel + 32) of a (.., stride) array to the
// tile, zeros where there is none. All threads take part.
inline void load_channels(device const float* from,
                          ulong stride,
                          uint n_rows,
                          uint channel,
                          uint head_dim,
                          uint tile_rows,
                          threadgroup float* tile,
                          uint thread_index) {
  const uint c = thread_index % kChannels;
  for (uint r = thread_index / kChannels; r < tile_rows; r += kThreads / kChannels) {
    const bool inside = r < n_rows && channel + c < head_dim;
    tile[r * kKeyPitch + c] = inside ? from[r * stride + channel + c] : 0.0f;
  }
}

// For each token t < n at position `position + t` and each head h, over positions p up to its own:
//   out[t, h] = softmax(scale * q[t, h] . keys[p]) . values[p]
// q, out (n, heads, head_dim), keys, values (position + n, kv_dim). A threadgroup per head and 16
// tokens, a SIMD group per two of them: 64 positions at a time, first all scores (a lane: two
// positions), the new maximum and the weights, then the sum over values (a lane: a channel) in
// `out` itself, so that head_dim has no limit. Keys and values are shared through tiles.
/// @elements q n * heads * head_dim
/// @elements keys (position + n) * kv_dim
/// @elements values (position + n) * kv_dim
/// @elements out n * heads * head_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(n, 16) * heads * 256
/// @require heads_per_kv > 0
/// @require ceil_div(heads, heads_per_kv) * head_dim <= kv_dim
/// @require grid == ceil_div(n, 16) * heads * 256
kernel void attention_prefill_f32(device const float* q [[buffer(0)]],
                                  device const float* keys [[buffer(1)]],
                                  device const float* values [[buffer(2)]],
                                  device float* out [[buffer(3)]],
                                  constant AttentionPrefillArgs& args [[buffer(4)]],
                                  uint group [[threadgroup_position_in_grid]],
                                  uint thread_index [[thread_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float rows_tile[kPositions * kKeyPitch];  // keys, then values
  threadgroup float q_tile[kQueries * kKeyPitch];
  threadgroup float weights[kQueries * kPositions];
  const uint head = group % args.heads;
  const uint first = group / args.heads * kQueries;
  const uint n_queries = min(kQueries, args.n - first);
  const ulong kv_at = ulong(head / args.heads_per_kv) * args.head_dim;
  const ulong q_stride = ulong(args.heads) * args.head_dim;
  const ulong q_at = first * q_stride + ulong(head) * args.head_dim;
  const uint end = args.position + first + n_queries;  // what the last token sees
  // Of the tokens simdgroup and simdgroup + 8: the maximum, the sum of weights, and what earlier
  // sums are multiplied by. The same in all lanes.
  float2 top = float2(-INFINITY, -INFINITY);
  float2 total = float2(0.0f, 0.0f);
  float2 shrink = float2(0.0f, 0.0f);

  for (uint block = 0; block < end; block += kPositions) {
    const uint n_rows = min(kPositions, end - block);
    float4 dot = float4(0.0f, 0.0f, 0.0f, 0.0f);  // 2 tokens x positions lane and lane + 32
    for (uint channel = 0; channel < args.head_dim; channel += kChannels) {
      threadgroup_barrier(mem_flags::mem_threadgroup);  // earlier tiles have been read
      load_channels(keys + block * ulong(args.kv_dim) + kv_at, args.kv_dim, n_rows, channel,
                    args.head_dim, kPositions, rows_tile, thread_index);
      load_channels(q + q_at, q_stride, n_queries, channel, args.head_dim, kQueries, q_tile,
                    thread_index);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint c = 0; c < kChannels; ++c) {
        const float2 key =
            float2(rows_tile[lane * kKeyPitch + c], rows_tile[(lane + kSimdWidth) * kKeyPitch + c]);
        const float2 query =
            float2(q_tile[simdgroup * kKeyPitch + c], q_tile[(simdgroup + 8) * kKeyPitch + c]);
        dot = fma(float4(query.x, query.x, query.y, query.y), float4(key.x, key.y, key.x, key.y),
                  dot);
      }
    }
    const float4 score = dot * args.scale;
    for (uint t = 0; t < 2; ++t) {
      const uint token = simdgroup + 8 * t;
      const uint visible = args.position + first + min(token, n_queries - 1) + 1;
      const float near = block + lane < visible ? score[2 * t] : -INFINITY;
      const float far = block + lane + kSimdWidth < visible ? score[2 * t + 1] : -INFINITY;
      const float new_top = max(top[t], simd_max(max(near, far)));
      const float2 weight = float2(precise::exp(near - new_top), precise::exp(far - new_top));
      shrink[t] = precise::exp(top[t] - new_top);  // 0 at first
      total[t] = total[t] * shrink[t] + simd_sum(weight.x + weight.y);
      top[t] = new_top;
      weights[token * kPositions + lane] = weight.x;
      weights[token * kPositions + lane + kSimdWidth] = weight.y;
    }
    const bool last = block + n_rows == end;
    for (uint channel = 0; channel < args.head_dim; channel += kChannels) {
      threadgroup_barrier(mem_flags::mem_threadgroup);  // tiles read, weights written
      load_channels(values + block * ulong(args.kv_dim) + kv_at, args.kv_dim, n_rows, channel,
                    args.head_dim, kPositions, rows_tile, thread_index);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      float2 sum = float2(0.0f, 0.0f);
      for (uint p = 0; p < kPositions; ++p) {
        const float value = rows_tile[p * kKeyPitch + lane];
        sum = fma(
            float2(weights[simdgroup * kPositions + p], weights[(simdgroup + 8) * kPositions + p]),
            float2(value, value), sum);
      }
      for (uint t = 0; t < 2; ++t) {
        const uint token = simdgroup + 8 * t;
        if (token >= n_queries || channel + lane >= args.head_dim) continue;
        device float* to = out + q_at + token * q_stride + channel + lane;
        const float added = block == 0 ? sum[t] : fma(*to, shrink[t], sum[t]);
        *to = last ? added / total[t] : added;
      }
    }
  }
}
