// Attention of one token over a KV cache of any length: the positions are split, and a threadgroup
// takes one split for the queries of one key head, so that keys and values are read once. The splits
// are merged by attention_merge_f32. Where one begins depends on the number of positions alone.
#include "attention_head.h"
#include "fold.h"

constant constexpr uint kMostHeadDim = 256;     // of a head
constant constexpr uint kDecodeSimdgroups = 8;  // of a threadgroup
constant constexpr uint kKeyLanes = 8;          // lanes that share a key
constant constexpr uint kKeysAtOnce = 4;        // that a SIMD group reads at a time

// scores[p, i] = query i . keys[p] for p < n. A SIMD group takes eight positions at a time, two for
// each eight of its lanes, of which each has every eighth four channels.
template <typename T, uint kQueries>
inline void split_scores(device const T* keys,
                         uint kv_dim,
                         uint n,
                         uint hidden,
                         threadgroup const float* queries,
                         threadgroup float* scores,
                         uint lane,
                         uint simdgroup) {
  constexpr uint kSums = 2 * kQueries;
  constexpr uint kOwn = kSums < kKeyLanes ? 1 : kSums / kKeyLanes;  // sums that a lane ends with
  constexpr uint kShare =
      kSums < kKeyLanes ? kKeyLanes / kSums : 1;  // lanes that end with the same
  const uint part = lane % kKeyLanes;
  for (uint first = simdgroup * 2 * kKeysAtOnce; first < n;
       first += kDecodeSimdgroups * 2 * kKeysAtOnce) {
    const uint p = first + lane / kKeyLanes;
    device const T* near = keys + ulong(min(p, n - 1)) * kv_dim;
    device const T* far = keys + ulong(min(p + kKeysAtOnce, n - 1)) * kv_dim;
    float sums[kSums];
#pragma unroll
    for (uint i = 0; i < kSums; ++i) sums[i] = 0.0f;
    for (uint d = part * 4; d < HeadDim; d += kKeyLanes * 4) {
      const float4 a = load4(near + d);
      const float4 b = load4(far + d);
#pragma unroll
      for (uint i = 0; i < kQueries; ++i) {
        const float4 query = *(threadgroup const float4*)(queries + i * HeadDim + d);
        sums[2 * i] = dot4(query, a, sums[2 * i]);
        sums[2 * i + 1] = dot4(query, b, sums[2 * i + 1]);
      }
    }
    fold<kSums>(sums, 4, lane);
    fold<(kSums > 2 ? kSums / 2 : 1)>(sums, 2, lane);
    fold<(kSums > 4 ? kSums / 4 : 1)>(sums, 1, lane);
#pragma unroll
    for (uint i = 0; i < kOwn; ++i) {
      const uint sum = part / kShare * kOwn + i;
      const uint at = p + sum % 2 * kKeysAtOnce;
      if (part % kShare == 0 && at < n)
        scores[at * kQueries + sum / 2] = at < hidden ? -INFINITY : sums[i];
    }
  }
}

// Turns the scores of each query into weights, exp(score - top); stats[i] = (top, their sum).
template <uint kQueries>
inline void split_weights(
    uint n, threadgroup float* scores, threadgroup float2* stats, uint lane, uint simdgroup) {
  for (uint i = simdgroup; i < kQueries; i += kDecodeSimdgroups) {
    float top = -INFINITY;
    for (uint p = lane; p < n; p += kSimdWidth) top = max(top, scores[p * kQueries + i]);
    top = simd_max(top);
    float sum = 0.0f;
    for (uint p = lane; p < n; p += kSimdWidth) {
      const float weight = precise::exp(scores[p * kQueries + i] - top);
      scores[p * kQueries + i] = weight;
      sum += weight;
    }
    sum = simd_sum(sum);
    if (lane == 0) stats[i] = float2(top, sum);
  }
}

// The queries of a threadgroup, normed, turned and scaled; zeros behind the n that there are.
template <uint kQueries>
inline void turn_queries(device const float* q,
                         device const float* weight,
                         device const float* inv_freq,
                         constant AttentionDecodeArgs& args,
                         uint n,
                         threadgroup float* queries,
                         uint lane,
                         uint simdgroup) {
  const uint pairs = args.rotary_dim / 2;
  for (uint i = simdgroup; i < kQueries; i += kDecodeSimdgroups) {
    threadgroup float* to = queries + i * HeadDim;
    device const float* head = q + ulong(min(i, n - 1)) * HeadDim;
    const float scale = i < n ? args.scale : 0.0f;
    const HeadTurn turn = head_turn(head, HeadDim, args.rotary_dim, args.norm_q != 0, args.eps,
                                    args.kv_len - 1, args.rope_scale, lane);
    for (uint c = lane; c < pairs; c += kSimdWidth) {
      const float2 y = turned_pair(head, weight, inv_freq, turn, c);
      to[c] = y.x * scale;
      to[c + pairs] = y.y * scale;
    }
    for (uint c = args.rotary_dim + lane; c < HeadDim; c += kSimdWidth)
      to[c] = head_channel(head, weight, turn, c) * scale;
  }
}

// The token's own key, normed and turned, as the cache has it; into the cache where `stores`.
template <typename T>
inline void turn_key(device const float* k,
                     device const float* weight,
                     device const float* inv_freq,
                     constant AttentionDecodeArgs& args,
                     bool stores,
                     device T* cached,
                     threadgroup float* key,
                     uint lane) {
  const uint pairs = args.rotary_dim / 2;
  const HeadTurn turn = head_turn(k, HeadDim, args.rotary_dim, args.norm_k != 0, args.eps,
                                  args.kv_len - 1, args.rope_scale, lane);
  for (uint c = lane; c < HeadDim; c += kSimdWidth) {
    float y = 0.0f;
    if (c < args.rotary_dim) {
      const float2 both = turned_pair(k, weight, inv_freq, turn, c < pairs ? c : c - pairs);
      y = c < pairs ? both.x : both.y;
    } else {
      y = head_channel(k, weight, turn, c);
    }
    key[c] = as_cached(cached, y);
    if (stores) store(cached + c, y);
  }
}

// For a token at position kv_len - 1, its queries q (heads, HeadDim), key k and value v (key heads,
// HeadDim): queries and key are normed and turned as attention_rows does it; key and value go to
// new_keys and new_values, its row of the cache, and are not read from there.
// For a split s of the positions [from, kv_len) and head h, over the split's positions p:
//   m = max of scale * q[h] . key p;  partial[s, h] = sum of exp(.. - m) value p;
//   stats[s, h] = (m, sum of exp(.. - m)).
// Splits are the multiples of `split` up to kv_len, from the one on that holds `from`; of one alone,
// partial[0, h] is the result, divided by the sum. partial (splits, heads, HeadDim), stats
// (splits, heads, 2). Position p is row p % 256 of extent p / 256: keys (256,
// kv_dim) at keys_at (16 bytes) of block 2 (p / 256), values at values_at of the block behind it; of
// the extent `last`, which may be shorter, at last_keys_at and last_values_at. A threadgroup per
// split, key head and N of its queries; one whose positions do not lie in its blocks writes nothing.
/// @elements q heads * HeadDim
/// @elements k heads / heads_per_kv * HeadDim
/// @elements v heads / heads_per_kv * HeadDim
/// @elements new_keys heads / heads_per_kv * HeadDim
/// @elements new_values heads / heads_per_kv * HeadDim
/// @elements q_norm norm_q > 0 ? HeadDim : 0
/// @elements k_norm norm_k > 0 ? HeadDim : 0
/// @elements inv_freq rotary_dim / 2
/// @elements blocks 4 * extents
/// @elements partial splits * heads * HeadDim
/// @elements stats ends > 0 ? 0 : splits * heads * 2
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid splits * (heads / heads_per_kv) * ceil_div(heads_per_kv, N) * 256
/// @require HeadDim > 0 && HeadDim <= 256 && HeadDim % 4 == 0
/// @require heads_per_kv > 0 && heads % heads_per_kv == 0
/// @require rotary_dim <= HeadDim && rotary_dim % 2 == 0
/// @require kv_dim % 4 == 0 && heads / heads_per_kv * HeadDim <= kv_dim
/// @require split > 0 && split <= 256 && 256 % split == 0
/// @require from < kv_len && kv_len <= extents * 256
/// @require splits == ceil_div(kv_len, split) - from / split
/// @require ends == 0 || splits == 1
/// @require grid == splits * (heads / heads_per_kv) * ceil_div(heads_per_kv, N) * 256
template <typename T, uint N>
kernel void attention_decode(device const float* q [[buffer(0)]],
                             device const float* k [[buffer(1)]],
                             device const float* v [[buffer(2)]],
                             device T* new_keys [[buffer(3)]],
                             device T* new_values [[buffer(4)]],
                             device const float* q_norm [[buffer(5)]],
                             device const float* k_norm [[buffer(6)]],
                             device const float* inv_freq [[buffer(7)]],
                             device const ulong2* blocks [[buffer(8)]],
                             device float* partial [[buffer(9)]],
                             device float* stats [[buffer(10)]],
                             constant AttentionDecodeArgs& args [[buffer(11)]],
                             uint group [[threadgroup_position_in_grid]],
                             uint thread_index [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  // Queries and scores; then, of so many queries at a time, what the SIMD groups have summed.
  threadgroup float4 memory[(N + 1) / 2 * 2 * 128];
  threadgroup float2 sums[N];
  threadgroup float own_key[kMostHeadDim];
  constexpr uint kRound = (N + 1) / 2;
  threadgroup float* queries = (threadgroup float*)memory;
  threadgroup float* scores = queries + N * kMostHeadDim;
  const uint tiles = (args.heads_per_kv + N - 1) / N;
  const uint kv_heads = args.heads / args.heads_per_kv;
  const uint kv_head = group / tiles % kv_heads;
  const uint of_kv = group % tiles * N;  // the first query
  const uint n_queries = min(uint(N), args.heads_per_kv - of_kv);
  const uint head = kv_head * args.heads_per_kv + of_kv;
  const uint index = group / tiles / kv_heads;
  const uint begin = (args.from / args.split + index) * args.split;
  const uint n = min(args.split, args.kv_len - begin);
  const uint extent = begin / kExtent;
  const bool last = extent == args.last;
  const uint row = begin % kExtent;
  device const T* keys = cache_rows<T>(blocks, 2 * extent, last ? args.last_keys_at : args.keys_at,
                                       row + n, args.kv_dim);
  device const T* values = cache_rows<T>(
      blocks, 2 * extent + 1, last ? args.last_values_at : args.values_at, row + n, args.kv_dim);
  if (keys == nullptr || values == nullptr) return;  // the whole threadgroup
  keys += ulong(row) * args.kv_dim + kv_head * HeadDim;
  values += ulong(row) * args.kv_dim + kv_head * HeadDim;

  const bool has_own = begin + n == args.kv_len;  // the token's own position, the last
  const uint n_cached = has_own ? n - 1 : n;
  device const float* own_value = v + kv_head * HeadDim;
  turn_queries<N>(q + ulong(head) * HeadDim, q_norm, inv_freq, args, n_queries, queries, lane,
                  simdgroup);
  if (has_own && simdgroup == kDecodeSimdgroups - 1)
    turn_key(k + kv_head * HeadDim, k_norm, inv_freq, args, of_kv == 0,
             new_keys + kv_head * HeadDim, own_key, lane);
  if (has_own && of_kv == 0)
    for (uint c = thread_index; c < HeadDim; c += kDecodeSimdgroups * kSimdWidth)
      store(new_values + kv_head * HeadDim + c, own_value[c]);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  split_scores<T, N>(keys, args.kv_dim, n_cached, max(args.from, begin) - begin, queries, scores,
                     lane, simdgroup);
  if (has_own)
    for (uint i = simdgroup; i < N; i += kDecodeSimdgroups) {
      float sum = 0.0f;
      for (uint c = lane; c < HeadDim; c += kSimdWidth)
        sum = fma(queries[i * HeadDim + c], own_key[c], sum);
      sum = simd_sum(sum);
      if (lane == 0) scores[n_cached * N + i] = sum;
    }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  split_weights<N>(n, scores, sums, lane, simdgroup);
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // A SIMD group has 128 channels of one value, or a narrower head of several. A lane: four.
  const uint lanes = HeadDim <= 32 ? 8 : HeadDim <= 64 ? 16 : 32;
  const uint slices = HeadDim <= 128 ? 1 : 2;
  const uint channel = (lane % lanes + simdgroup % slices * kSimdWidth) * 4;
  const uint ways = kDecodeSimdgroups / slices * (kSimdWidth / lanes);
  const uint way = simdgroup / slices * (kSimdWidth / lanes) + lane / lanes;
  device const T* column = values + (channel < HeadDim ? channel : 0);
  float4 sum[N];
#pragma unroll
  for (uint i = 0; i < N; ++i) sum[i] = float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (uint p = way; p < n_cached; p += 2 * ways) {
    const bool both = p + ways < n_cached;
    const float4 a = load4(column + ulong(p) * args.kv_dim);
    const float4 b = load4(column + ulong(both ? p + ways : p) * args.kv_dim);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      const float weight = scores[p * N + i];
      const float other = both ? scores[(p + ways) * N + i] : 0.0f;
      sum[i] = fma(float4(weight, weight, weight, weight), a, sum[i]);
      sum[i] = fma(float4(other, other, other, other), b, sum[i]);
    }
  }

  if (has_own && n_cached % ways == way && channel < HeadDim) {
    float4 own;
#pragma unroll
    for (uint c = 0; c < 4; ++c) own[c] = as_cached(values, own_value[channel + c]);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      const float weight = scores[n_cached * N + i];
      sum[i] = fma(float4(weight, weight, weight, weight), own, sum[i]);
    }
  }

  device float* to = partial + (ulong(index) * args.heads + head) * HeadDim;
#pragma unroll
  for (uint first = 0; first < N; first += kRound) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // what was there has been read
#pragma unroll
    for (uint i = 0; i < kRound; ++i)
      if (channel < HeadDim) memory[((i * ways + way) * HeadDim + channel) / 4] = sum[first + i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index; i < kRound * HeadDim; i += kDecodeSimdgroups * kSimdWidth) {
      const uint query = first + i / HeadDim;
      threadgroup const float* each = queries + i / HeadDim * ways * HeadDim + i % HeadDim;
      float total = each[0];
      for (uint w = 1; w < ways; ++w) total += each[w * HeadDim];
      if (query >= n_queries) continue;
      to[query * HeadDim + i % HeadDim] = args.ends ? total / sums[query].y : total;
    }
  }
  if (args.ends == 0 && thread_index < n_queries) {
    device float* stat = stats + (ulong(index) * args.heads + head + thread_index) * 2;
    stat[0] = sums[thread_index].x;
    stat[1] = sums[thread_index].y;
  }
}

template [[host_name("attention_decode_f32_1")]] kernel decltype(attention_decode<float, 1>)
    attention_decode<float, 1>;
template [[host_name("attention_decode_f32_4")]] kernel decltype(attention_decode<float, 4>)
    attention_decode<float, 4>;
template [[host_name("attention_decode_f32_8")]] kernel decltype(attention_decode<float, 8>)
    attention_decode<float, 8>;
template [[host_name("attention_decode_bf16_1")]] kernel decltype(attention_decode<bf16, 1>)
    attention_decode<bf16, 1>;
template [[host_name("attention_decode_bf16_4")]] kernel decltype(attention_decode<bf16, 4>)
    attention_decode<bf16, 4>;
template [[host_name("attention_decode_bf16_8")]] kernel decltype(attention_decode<bf16, 8>)
    attention_decode<bf16, 8>;
