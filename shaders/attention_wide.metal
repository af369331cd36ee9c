// Attention of one token with heads wider than those of attention_decode, over a KV cache of any
// length. Queries come turned, and the token's own key and value are in the cache already. The
// splits are merged by attention_merge_f32.
#include "fold.h"
#include "kv_cache.h"

constant constexpr uint kMostWide = 640;       // numbers of a head
constant constexpr uint kWideSimdgroups = 16;  // of a threadgroup
constant constexpr uint kWideThreads = kWideSimdgroups * kSimdWidth;
constant constexpr uint kWideQueries = 8;  // of a threadgroup
constant constexpr uint kWideKeys = 4;  // that a SIMD group has at a time: a sum ends in each lane
constant constexpr uint kWideValues = 4;  // that a thread reads before it adds them
constant constexpr uint kWideRound = 2;   // queries whose sums are added at a time

// For each query head h of a token at position kv_len - 1 and a split s of the positions
// [from, kv_len), over the split's positions p:
//   m = max of scale * q[h] . key p;  partial[s, h] = sum of exp(.. - m) value p;
//   stats[s, h] = (m, sum of exp(.. - m)).
// q (heads, HeadDim), partial (splits, heads, value_dim): of the first channels of values alone, which
// with values_are_keys are those of keys; stats (splits, heads, 2). Splits and the cache are those of
// attention_decode; a dispatch has `parts` splits from the `first_split`th on. With `ends` there is
// one, and partial[0, h] is the result, divided by the sum. A threadgroup per split, key head and eight
// of its queries; one whose positions do not lie in its blocks writes nothing.
/// @elements q heads * HeadDim
/// @elements blocks 4 * extents
/// @elements partial splits * heads * value_dim
/// @elements stats ends > 0 ? 0 : splits * heads * 2
/// @threadgroup 512
/// @default_threadgroup 512
/// @grid parts * (heads / heads_per_kv) * ceil_div(heads_per_kv, 8) * 512
/// @require HeadDim > 0 && HeadDim <= 640 && HeadDim % 4 == 0
/// @require value_dim > 0 && value_dim <= HeadDim && value_dim % 4 == 0
/// @require heads_per_kv > 0 && heads % heads_per_kv == 0
/// @require kv_dim % 4 == 0 && heads / heads_per_kv * HeadDim <= kv_dim
/// @require split > 0 && split <= 256 && 256 % split == 0
/// @require from < kv_len && kv_len <= extents * 256
/// @require splits == ceil_div(kv_len, split) - from / split
/// @require first_split + parts <= splits
/// @require ends == 0 || splits == 1
/// @require grid == parts * (heads / heads_per_kv) * ceil_div(heads_per_kv, 8) * 512
template <typename T>
kernel void attention_wide(device const float* q [[buffer(0)]],
                           device const ulong2* blocks [[buffer(1)]],
                           device float* partial [[buffer(2)]],
                           device float* stats [[buffer(3)]],
                           constant AttentionWideArgs& args [[buffer(4)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  // Queries and scores; then, of two queries at a time, what threads have summed.
  threadgroup float4 memory[kWideQueries * (kMostWide + kExtent) / 4];
  threadgroup float2 sums[kWideQueries];
  threadgroup float* queries = (threadgroup float*)memory;
  threadgroup float* scores = queries + kWideQueries * kMostWide;
  const uint tiles = (args.heads_per_kv + kWideQueries - 1) / kWideQueries;
  const uint kv_heads = args.heads / args.heads_per_kv;
  const uint kv_head = group / tiles % kv_heads;
  const uint of_kv = group % tiles * kWideQueries;  // the first query
  const uint n_queries = min(kWideQueries, args.heads_per_kv - of_kv);
  const uint head = kv_head * args.heads_per_kv + of_kv;
  const uint index = args.first_split + group / tiles / kv_heads;
  const uint begin = (args.from / args.split + index) * args.split;
  const uint n = min(args.split, args.kv_len - begin);
  const uint hidden = max(args.from, begin) - begin;
  const uint extent = begin / kExtent;
  const bool last = extent == args.last;
  const bool own_values = args.values_are_keys == 0;
  const uint row = begin % kExtent;
  const uint keys_at = last ? args.last_keys_at : args.keys_at;
  const uint values_at = last ? args.last_values_at : args.values_at;
  device const T* keys = cache_rows<T>(blocks, 2 * extent, keys_at, row + n, args.kv_dim);
  device const T* values =
      own_values ? cache_rows<T>(blocks, 2 * extent + 1, values_at, row + n, args.kv_dim) : keys;
  if (keys == nullptr || values == nullptr) return;  // the whole threadgroup
  keys += ulong(row) * args.kv_dim + kv_head * HeadDim;
  values += ulong(row) * args.kv_dim + kv_head * HeadDim;

  for (uint i = thread_index; i < kWideQueries * HeadDim; i += kWideThreads)
    queries[i] = i / HeadDim < n_queries ? q[ulong(head) * HeadDim + i] * args.scale : 0.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint first = simdgroup * kWideKeys; first < n; first += kWideSimdgroups * kWideKeys) {
    float dots[kWideQueries * kWideKeys];
#pragma unroll
    for (uint i = 0; i < kWideQueries * kWideKeys; ++i) dots[i] = 0.0f;
    for (uint d = lane * 4; d < HeadDim; d += kSimdWidth * 4) {
      float4 key[kWideKeys];
#pragma unroll
      for (uint j = 0; j < kWideKeys; ++j)
        key[j] = load4(keys + ulong(min(first + j, n - 1)) * args.kv_dim + d);
#pragma unroll
      for (uint i = 0; i < kWideQueries; ++i) {
        const float4 query = *(threadgroup const float4*)(queries + i * HeadDim + d);
#pragma unroll
        for (uint j = 0; j < kWideKeys; ++j)
          dots[i * kWideKeys + j] = dot4(query, key[j], dots[i * kWideKeys + j]);
      }
    }
    fold<32>(dots, 16, lane);
    fold<16>(dots, 8, lane);
    fold<8>(dots, 4, lane);
    fold<4>(dots, 2, lane);
    fold<2>(dots, 1, lane);
    const uint p = first + lane % kWideKeys;
    if (p < n) scores[p * kWideQueries + lane / kWideKeys] = p < hidden ? -INFINITY : dots[0];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  if (simdgroup < kWideQueries) {
    float top = -INFINITY;
    for (uint p = lane; p < n; p += kSimdWidth)
      top = max(top, scores[p * kWideQueries + simdgroup]);
    top = simd_max(top);
    float sum = 0.0f;
    for (uint p = lane; p < n; p += kSimdWidth) {
      const float weight = precise::exp(scores[p * kWideQueries + simdgroup] - top);
      scores[p * kWideQueries + simdgroup] = weight;
      sum += weight;
    }
    sum = simd_sum(sum);
    if (lane == 0) sums[simdgroup] = float2(top, sum);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // A thread has four channels of every `ways`th value.
  const uint quads = args.value_dim / 4;
  const uint ways = kWideThreads / quads;
  const uint way = thread_index / quads;
  const uint channel = thread_index % quads * 4;
  float4 sum[kWideQueries];
#pragma unroll
  for (uint i = 0; i < kWideQueries; ++i) sum[i] = float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (uint p = way; way < ways && p < n; p += kWideValues * ways) {
    float4 value[kWideValues];
#pragma unroll
    for (uint j = 0; j < kWideValues; ++j)
      value[j] = load4(values + ulong(min(p + j * ways, n - 1)) * args.kv_dim + channel);
#pragma unroll
    for (uint j = 0; j < kWideValues; ++j) {
      if (p + j * ways >= n) break;
#pragma unroll
      for (uint i = 0; i < kWideQueries; ++i) {
        const float weight = scores[(p + j * ways) * kWideQueries + i];
        sum[i] = fma(float4(weight, weight, weight, weight), value[j], sum[i]);
      }
    }
  }

  device float* to = partial + (ulong(index) * args.heads + head) * args.value_dim;
#pragma unroll
  for (uint first = 0; first < kWideQueries; first += kWideRound) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // what was there has been read
#pragma unroll
    for (uint i = 0; i < kWideRound; ++i)
      if (way < ways) memory[(i * ways + way) * quads + channel / 4] = sum[first + i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index; i < kWideRound * args.value_dim; i += kWideThreads) {
      const uint query = first + i / args.value_dim;
      const uint c = i % args.value_dim;
      threadgroup const float* each = queries + i / args.value_dim * ways * args.value_dim + c;
      float total = each[0];
      for (uint w = 1; w < ways; ++w) total += each[w * args.value_dim];
      if (query >= n_queries) continue;
      to[query * args.value_dim + c] = args.ends ? total / sums[query].y : total;
    }
  }
  if (args.ends == 0 && thread_index < n_queries) {
    device float* stat = stats + (ulong(index) * args.heads + head + thread_index) * 2;
    stat[0] = sums[thread_index].x;
    stat[1] = sums[thread_index].y;
  }
}

template [[host_name(
    "attention_wide_f32")]] kernel decltype(attention_wide<float>) attention_wide<float>;
template
    [[host_name("attention_wide_bf16")]] kernel decltype(attention_wide<bf16>) attention_wide<bf16>;
