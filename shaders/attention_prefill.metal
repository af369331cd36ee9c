// Causal attention of many tokens over a KV cache, with an online softmax: memory does not depend on
// the context. All queries of a key head are rows of one matrix, so that a tile of keys serves them
// together. A dispatch may take a part of the tiles, or of the keys: it goes on from where the one
// before it stopped, in the same order of the same sums.
#include "kv_cache.h"

constant constexpr uint kQueryRows = 64;      // queries of one key head that a threadgroup has
constant constexpr uint kBlockKeys = 64;      // positions at a time
constant constexpr uint kBlockChannels = 32;  // of keys and queries at a time
constant constexpr uint kBlockValues = 16;    // positions of values at a time
constant constexpr uint kValueSlice = 128;    // channels of values that a threadgroup sums
constant constexpr uint kQueryPitch = 17;     // float4, one more than 64 numbers: other banks

// Channels [channel, channel + 32) of row r to component r % 4 of tile[c, r / 4], for 64 rows, of
// which `n` there are. All threads take part, each at a row of its own.
template <typename T>
inline void transpose_rows(device const T* row,
                           bool live,
                           float scale,
                           uint channel,
                           uint r,
                           uint first,
                           threadgroup float* tile) {
#pragma unroll
  for (uint u = 0; u < 2; ++u) {
    const uint c = first + u * kBlockChannels / 2;
    float4 four = float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (live && channel + c < HeadDim) four = load4(row + channel + c) * scale;
#pragma unroll
    for (uint i = 0; i < 4; ++i) tile[(c + i) * kQueryPitch * 4 + r] = four[i];
  }
}

// The largest of the 16 lanes that share rows, or their sum, in each of them.
inline float max_of_16(float value) {
  value = max(value, simd_shuffle_xor(value, 8));
  value = max(value, simd_shuffle_xor(value, 4));
  value = max(value, simd_shuffle_xor(value, 2));
  return max(value, simd_shuffle_xor(value, 1));
}
inline float sum_of_16(float value) {
  value += simd_shuffle_xor(value, 8);
  value += simd_shuffle_xor(value, 4);
  value += simd_shuffle_xor(value, 2);
  return value + simd_shuffle_xor(value, 1);
}

// For each token t < n at position `position + t` and each head h, over the positions p up to its
// own, with a window over the last `window` of them alone:
//   out[t, h] = softmax(scale * q[t, h] . key p) . value p
// q (n, heads, HeadDim), out (splits, n, heads, value_dim): of the first channels of values alone;
// stats (ceil(value_dim / 128), splits, n, heads, 2), sinks (heads): with has_sinks one more score
// each, of no value. The cache is that of attention_decode. A threadgroup has 64 rows (t, query of a
// key head) and 128 channels of a split of the keys: `split` positions, the first split from key_begin
// on, up to key_end, 64 at a time; a dispatch has `parts` splits from the `first_split`th on. A thread
// has 4 x 4 scores and 4 x 8 sums. Without `ends`, and with several splits, out has the sums
// and stats (their largest score, the sum of weights); with `resumes` they begin as these are there.
// One whose positions do not lie in its blocks writes nothing.
/// @aligned q 16
/// @aligned out 16
/// @elements q n * heads * HeadDim
/// @elements blocks 4 * extents
/// @elements out splits * n * heads * value_dim
/// @elements stats ends > 0 && resumes == 0 ? 0 : ceil_div(value_dim, 128) * splits * n * heads * 2
/// @elements sinks has_sinks > 0 ? heads : 0
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid parts * tiles * (heads / heads_per_kv) * ceil_div(value_dim, 128) * 256
/// @require HeadDim > 0 && HeadDim % 4 == 0
/// @require value_dim > 0 && value_dim <= HeadDim && value_dim % 4 == 0
/// @require heads_per_kv > 0 && heads % heads_per_kv == 0
/// @require kv_dim % 4 == 0 && heads / heads_per_kv * HeadDim <= kv_dim
/// @require n > 0 && first_tile + tiles <= ceil_div(n * heads_per_kv, 64)
/// @require key_begin % 64 == 0 && key_end <= position + n && position + n <= extents * 256
/// @require splits > 0 && split % 64 == 0 && key_begin + splits * split >= key_end
/// @require splits == 1 || ends + resumes == 0
/// @require first_split + parts <= splits
/// @require grid == parts * tiles * (heads / heads_per_kv) * ceil_div(value_dim, 128) * 256
template <typename T>
kernel void attention_prefill(device const float* q [[buffer(0)]],
                              device const ulong2* blocks [[buffer(1)]],
                              device float* out [[buffer(2)]],
                              device float* stats [[buffer(3)]],
                              device const float* sinks [[buffer(4)]],
                              constant AttentionPrefillArgs& args [[buffer(5)]],
                              uint group [[threadgroup_position_in_grid]],
                              uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile[2 * kBlockChannels * kQueryPitch];  // queries and keys; then weights
  threadgroup float4 value_tile[kBlockValues * kValueSlice / 4];
  threadgroup float4* key_tile = tile + kBlockChannels * kQueryPitch;
  const uint slices = (args.value_dim + kValueSlice - 1) / kValueSlice;
  const uint kv_heads = args.heads / args.heads_per_kv;
  const uint slice = group % slices;
  const uint kv_head = group / slices % kv_heads;
  const uint first = (args.first_tile + group / slices / kv_heads % args.tiles) * kQueryRows;
  const uint split = args.first_split + group / slices / kv_heads / args.tiles;
  const uint n_rows = args.n * args.heads_per_kv;
  const uint last_row = min(first + kQueryRows, n_rows) - 1;
  const uint split_begin = args.key_begin + split * args.split;
  const uint end = min(min(args.key_end, split_begin + args.split),
                       args.position + last_row / args.heads_per_kv + 1);
  const uint seen = args.position + first / args.heads_per_kv + 1;  // by the first row
  const uint hidden = args.window && seen > args.window ? seen - args.window : 0;
  const uint begin = max(split_begin, hidden / kBlockKeys * kBlockKeys);

  const uint rows_at = thread_index / 16;  // of four rows, as lanes of it
  const uint at = thread_index % 16;       // of four positions, of four channels and four more
  const uint own = thread_index / 4;       // the row that this thread brings
  const uint fetched = thread_index % 4 * 4;
  const uint own_row = min(first + own, n_rows - 1);
  device const float* query = q + (ulong(own_row / args.heads_per_kv) * args.heads +
                                   kv_head * args.heads_per_kv + own_row % args.heads_per_kv) *
                                      HeadDim;
  float4 sum[8];
  float4 top = float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
  float4 total = float4(0.0f, 0.0f, 0.0f, 0.0f);  // of weights, as `top` the same in 16 lanes
  const uint channel = slice * kValueSlice + at * 4;
#pragma unroll
  for (uint i = 0; i < 4; ++i) {
    sum[2 * i] = sum[2 * i + 1] = float4(0.0f, 0.0f, 0.0f, 0.0f);
    const uint r = first + rows_at * 4 + i;
    if (args.resumes == 0 || r >= n_rows) continue;
    const ulong head = ulong(r / args.heads_per_kv) * args.heads + kv_head * args.heads_per_kv +
                       r % args.heads_per_kv;
    const ulong stat = (ulong(slice) * args.n * args.heads + head) * 2;
    top[i] = stats[stat];
    total[i] = stats[stat + 1];
    device const float* from = out + head * args.value_dim + channel;
    if (channel < args.value_dim) sum[2 * i] = load4(from);
    if (channel + 64 < args.value_dim) sum[2 * i + 1] = load4(from + 64);
  }

  for (uint block = begin; block < end; block += kBlockKeys) {
    const uint extent = block / kExtent;
    const bool last = extent == args.last;
    const uint n_keys = min(kBlockKeys, end - block);
    device const T* keys =
        cache_rows<T>(blocks, 2 * extent, last ? args.last_keys_at : args.keys_at,
                      block % kExtent + n_keys, args.kv_dim);
    device const T* values =
        cache_rows<T>(blocks, 2 * extent + 1, last ? args.last_values_at : args.values_at,
                      block % kExtent + n_keys, args.kv_dim);
    if (keys == nullptr || values == nullptr) return;  // the whole threadgroup
    const ulong block_at = ulong(block % kExtent) * args.kv_dim + kv_head * HeadDim;
    device const T* key = keys + block_at + ulong(own) * args.kv_dim;
    float4 score[4];
#pragma unroll
    for (uint i = 0; i < 4; ++i) score[i] = float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (uint c = 0; c < HeadDim; c += kBlockChannels) {
      threadgroup_barrier(mem_flags::mem_threadgroup);  // earlier tiles have been read
      transpose_rows(query, true, args.scale, c, own, fetched, (threadgroup float*)tile);
      transpose_rows(key, own < n_keys, 1.0f, c, own, fetched, (threadgroup float*)key_tile);
      threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll 8
      for (uint i = 0; i < kBlockChannels; ++i) {
        const float4 a = tile[i * kQueryPitch + rows_at];
        const float4 b = key_tile[i * kQueryPitch + at];
        score[0] = fma(float4(a.x, a.x, a.x, a.x), b, score[0]);
        score[1] = fma(float4(a.y, a.y, a.y, a.y), b, score[1]);
        score[2] = fma(float4(a.z, a.z, a.z, a.z), b, score[2]);
        score[3] = fma(float4(a.w, a.w, a.w, a.w), b, score[3]);
      }
    }
#pragma unroll
    for (uint i = 0; i < 4; ++i) {
      const uint r = min(first + rows_at * 4 + i, n_rows - 1);
      const uint visible = args.position + r / args.heads_per_kv + 1;
      const uint from = args.window && visible > args.window ? visible - args.window : 0;
#pragma unroll
      for (uint j = 0; j < 4; ++j) {
        const uint p = block + at * 4 + j;
        if (p >= visible || p < from || p >= end) score[i][j] = -INFINITY;
      }
      const float most = max_of_16(max(max(score[i].x, score[i].y), max(score[i].z, score[i].w)));
      const float new_top = max(top[i], most);
      const float base = new_top == -INFINITY ? 0.0f : new_top;  // nothing was visible yet
#pragma unroll
      for (uint j = 0; j < 4; ++j) score[i][j] = precise::exp(score[i][j] - base);
      const float shrink = precise::exp(top[i] - base);
      total[i] = fma(total[i], shrink, sum_of_16(sum4(score[i])));
      top[i] = new_top;
      sum[2 * i] *= shrink;
      sum[2 * i + 1] *= shrink;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // queries and keys have been read
#pragma unroll
    for (uint j = 0; j < 4; ++j)
      tile[(at * 4 + j) * kQueryPitch + rows_at] =
          float4(score[0][j], score[1][j], score[2][j], score[3][j]);
    for (uint p = 0; p < n_keys; p += kBlockValues) {
      if (p > 0) threadgroup_barrier(mem_flags::mem_threadgroup);  // earlier values have been read
#pragma unroll
      for (uint u = 0; u < 2; ++u) {
        const uint row = thread_index / 32 + u * 8;
        const uint c = slice * kValueSlice + thread_index % 32 * 4;
        device const T* value = values + block_at + ulong(min(p + row, n_keys - 1)) * args.kv_dim;
        value_tile[row * kValueSlice / 4 + thread_index % 32] =
            c < args.value_dim ? load4(value + c) : float4(0.0f, 0.0f, 0.0f, 0.0f);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll 4
      for (uint i = 0; i < kBlockValues; ++i) {
        const float4 weight = tile[(p + i) * kQueryPitch + rows_at];
        const float4 a = value_tile[i * kValueSlice / 4 + at];
        const float4 b = value_tile[i * kValueSlice / 4 + 16 + at];
#pragma unroll
        for (uint j = 0; j < 4; ++j) {
          sum[2 * j] = fma(float4(weight[j], weight[j], weight[j], weight[j]), a, sum[2 * j]);
          sum[2 * j + 1] =
              fma(float4(weight[j], weight[j], weight[j], weight[j]), b, sum[2 * j + 1]);
        }
      }
    }
  }

#pragma unroll
  for (uint i = 0; i < 4; ++i) {
    const uint r = first + rows_at * 4 + i;
    float weights = total[i];
    if (r >= n_rows) continue;
    const uint of_kv = kv_head * args.heads_per_kv + r % args.heads_per_kv;
    const ulong head = (ulong(split) * args.n + r / args.heads_per_kv) * args.heads + of_kv;
    float shrink = 1.0f;
    if (args.ends && args.has_sinks) {
      const float most = max(top[i], sinks[of_kv]);
      shrink = precise::exp(top[i] - most);
      weights = weights * shrink + precise::exp(sinks[of_kv] - most);
    }
    if (args.ends) shrink /= weights;
    device float* to = out + head * args.value_dim + channel;
    if (channel < args.value_dim) *(device float4*)to = sum[2 * i] * shrink;
    if (channel + 64 < args.value_dim) *(device float4*)(to + 64) = sum[2 * i + 1] * shrink;
    if (args.ends || at != 0) continue;
    const ulong stat = (ulong(slice) * args.splits * args.n * args.heads + head) * 2;
    stats[stat] = top[i];
    stats[stat + 1] = weights;
  }
}

template [[host_name(
    "attention_prefill_f32")]] kernel decltype(attention_prefill<float>) attention_prefill<float>;
template [[host_name(
    "attention_prefill_bf16")]] kernel decltype(attention_prefill<bf16>) attention_prefill<bf16>;
