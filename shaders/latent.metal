// What latent attention has around its sums over the cache, which are those of attention_wide and
// attention_prefill: rows into the cache, and heads' functions of latents (kv_b) on both sides.
#include "attention_head.h"

constant constexpr uint kLatentSimdgroups = 8;  // of a threadgroup
constant constexpr uint kLatentThreads = kLatentSimdgroups * kSimdWidth;
constant constexpr uint kLatentRows = 4;     // rows that share what is read of kv_b
constant constexpr uint kLatentAhead = 4;    // rows of kv_b that a lane reads before it adds them
constant constexpr uint kLatentSlice = 128;  // numbers of a latent that a threadgroup sums

// Channels i and i + half of what 2 half numbers become, whose pairs (2 i, 2 i + 1) turn.
inline float2 turned_neighbours(
    device const float* x, device const float* inv_freq, float position, float scale, uint i) {
  const float angle = position * inv_freq[i];
  const float c = precise::cos(angle) * scale;
  const float s = precise::sin(angle) * scale;
  const float a = x[2 * i];
  const float b = x[2 * i + 1];
  return float2(a * c - b * s, b * c + a * s);
}

// Row r is at position p = `position` + r. With query_step, q *= 1 + query_growth * log(1 + p /
// query_step), the quotient whole, before all else. The last rope_dim numbers of each head turn, by p *
// inv_freq, into the last ones of its query; other numbers of queries are absorb_latent_keys_f32's.
// keys = values = rms_norm(the first rank numbers of kv) * kv_norm, and the turned rest. q (n, heads,
// nope_dim + rope_dim), kv, keys, values (n, rank + rope_dim): the last two are these positions of a
// cache; queries (n, heads, rank + rope_dim), kv_norm (rank), inv_freq (rope_dim / 2). A SIMD group per
// row and head, and one for keys and values.
/// @elements q n * heads * (nope_dim + rope_dim)
/// @elements kv n * (rank + rope_dim)
/// @elements kv_norm rank
/// @elements inv_freq rope_dim / 2
/// @elements queries n * heads * (rank + rope_dim)
/// @elements keys n * (rank + rope_dim)
/// @elements values n * (rank + rope_dim)
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(n * (heads + 1), 8) * 256
/// @require rope_dim % 2 == 0
/// @require grid == ceil_div(n * (heads + 1), 8) * 256
template <typename T>
kernel void latent_rows(device float* q [[buffer(0)]],
                        device const float* kv [[buffer(1)]],
                        device const float* kv_norm [[buffer(2)]],
                        device const float* inv_freq [[buffer(3)]],
                        device float* queries [[buffer(4)]],
                        device T* keys [[buffer(5)]],
                        device T* values [[buffer(6)]],
                        constant LatentRowsArgs& args [[buffer(7)]],
                        uint group [[threadgroup_position_in_grid]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint unit = group * kLatentSimdgroups + simdgroup;
  if (unit >= args.n * (args.heads + 1)) return;  // the whole SIMD group
  const uint row = unit / (args.heads + 1);
  const uint head = unit % (args.heads + 1);
  const uint position = args.position + row;
  const uint half_dim = args.rope_dim / 2;
  const uint cached = args.rank + args.rope_dim;
  if (head == args.heads) {
    device const float* latent = kv + ulong(row) * cached;
    device T* key = keys + ulong(row) * cached;
    device T* value = values + ulong(row) * cached;
    const float scale = head_scale(latent, args.rank, true, args.eps, lane);
    for (uint i = lane; i < args.rank; i += kSimdWidth) {
      const float y = latent[i] * scale * kv_norm[i];
      store(key + i, y);
      store(value + i, y);
    }
    for (uint i = lane; i < half_dim; i += kSimdWidth) {
      const float2 y =
          turned_neighbours(latent + args.rank, inv_freq, float(position), args.rope_scale, i);
      store(key + args.rank + i, y.x);
      store(value + args.rank + i, y.x);
      store(key + args.rank + half_dim + i, y.y);
      store(value + args.rank + half_dim + i, y.y);
    }
    return;
  }
  const ulong at = ulong(row) * args.heads + head;
  device float* own = q + at * (args.nope_dim + args.rope_dim);
  float factor = 1.0f;
  if (args.query_step) {
    factor += args.query_growth * precise::log(float(1 + position / args.query_step));
    for (uint i = lane; i < args.nope_dim; i += kSimdWidth) own[i] *= factor;
  }
  device float* query = queries + at * cached + args.rank;
  for (uint i = lane; i < half_dim; i += kSimdWidth) {
    const float2 y = turned_neighbours(own + args.nope_dim, inv_freq, float(position),
                                       args.rope_scale * factor, i);
    query[i] = y.x;
    query[half_dim + i] = y.y;
  }
}

// queries[t, h, c] = sum over i < nope_dim of q[t, h, i] * kv_b[h, i, c], c < rank. q (n, heads, q_head),
// kv_b (heads, kv_head, rank), queries (n, heads, width). A threadgroup per four rows, head and 128
// numbers of a latent: a SIMD group has every eighth i, and their sums are added in their order.
/// @aligned kv_b 16
/// @elements q n * heads * q_head
/// @elements kv_b heads * kv_head * rank
/// @elements queries n * heads * width
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(n, 4) * heads * ceil_div(rank, 128) * 256
/// @require rank > 0 && rank % 4 == 0 && rank <= width && width % 4 == 0
/// @require nope_dim > 0 && nope_dim <= q_head && nope_dim <= kv_head
/// @require grid == ceil_div(n, 4) * heads * ceil_div(rank, 128) * 256
kernel void absorb_latent_keys_f32(device const float* q [[buffer(0)]],
                                   device const float* kv_b [[buffer(1)]],
                                   device float* queries [[buffer(2)]],
                                   constant AbsorbKeysArgs& args [[buffer(3)]],
                                   uint group [[threadgroup_position_in_grid]],
                                   uint thread_index [[thread_index_in_threadgroup]],
                                   uint lane [[thread_index_in_simdgroup]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 memory[kLatentThreads * kLatentRows];
  const uint slices = (args.rank + kLatentSlice - 1) / kLatentSlice;
  const uint slice = group % slices * kLatentSlice;
  const uint head = group / slices % args.heads;
  const uint first = group / slices / args.heads * kLatentRows;
  const uint channel = slice + lane * 4;
  device const float* keys =
      kv_b + ulong(head) * args.kv_head * args.rank + (channel < args.rank ? channel : 0);
  device const float* query[kLatentRows];
  float4 sum[kLatentRows];
#pragma unroll
  for (uint r = 0; r < kLatentRows; ++r) {
    query[r] = q + (ulong(min(first + r, args.n - 1)) * args.heads + head) * args.q_head;
    sum[r] = float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  for (uint i = simdgroup; i < args.nope_dim; i += kLatentAhead * kLatentSimdgroups) {
    float4 key[kLatentAhead];
#pragma unroll
    for (uint j = 0; j < kLatentAhead; ++j)
      key[j] = load4(keys + ulong(min(i + j * kLatentSimdgroups, args.nope_dim - 1)) * args.rank);
#pragma unroll
    for (uint j = 0; j < kLatentAhead; ++j) {
      const uint at = i + j * kLatentSimdgroups;
      if (at >= args.nope_dim) break;
#pragma unroll
      for (uint r = 0; r < kLatentRows; ++r) {
        if (first + r >= args.n) break;
        const float x = query[r][at];
        sum[r] = fma(float4(x, x, x, x), key[j], sum[r]);
      }
    }
  }
#pragma unroll
  for (uint r = 0; r < kLatentRows; ++r)
    memory[(simdgroup * kLatentRows + r) * kSimdWidth + lane] = sum[r];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup >= kLatentRows || first + simdgroup >= args.n || channel >= args.rank) return;
  float4 total = memory[simdgroup * kSimdWidth + lane];
#pragma unroll
  for (uint s = 1; s < kLatentSimdgroups; ++s)
    total += memory[(s * kLatentRows + simdgroup) * kSimdWidth + lane];
  device float* to =
      queries + (ulong(first + simdgroup) * args.heads + head) * args.width + channel;
  *(device float4*)to = total;
}

// out[t, h, v] = sum over c < rank of kv_b[h, nope_dim + v, c] * found[t, h, c], v < value_dim. kv_b
// (heads, nope_dim + value_dim, rank), found (n, heads, rank), out (n, heads, value_dim). A SIMD group
// per four rows, head and v.
/// @aligned kv_b 16
/// @aligned found 16
/// @elements found n * heads * rank
/// @elements kv_b heads * (nope_dim + value_dim) * rank
/// @elements out n * heads * value_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(ceil_div(n, 4) * heads * value_dim, 8) * 256
/// @require rank > 0 && rank % 4 == 0 && value_dim > 0
/// @require grid == ceil_div(ceil_div(n, 4) * heads * value_dim, 8) * 256
kernel void absorb_latent_values_f32(device const float* found [[buffer(0)]],
                                     device const float* kv_b [[buffer(1)]],
                                     device float* out [[buffer(2)]],
                                     constant AbsorbValuesArgs& args [[buffer(3)]],
                                     uint group [[threadgroup_position_in_grid]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint of_rows = args.heads * args.value_dim;
  const uint unit = group * kLatentSimdgroups + simdgroup;
  const uint first = unit / of_rows * kLatentRows;
  if (first >= args.n) return;  // the whole SIMD group
  const uint head = unit % of_rows / args.value_dim;
  const uint v = unit % args.value_dim;
  const ulong rows = args.nope_dim + args.value_dim;
  device const float* value = kv_b + (head * rows + args.nope_dim + v) * args.rank;
  float sum[kLatentRows];
#pragma unroll
  for (uint r = 0; r < kLatentRows; ++r) sum[r] = 0.0f;
  for (uint c = lane * 4; c < args.rank; c += kSimdWidth * 4) {
    const float4 weight = load4(value + c);
#pragma unroll
    for (uint r = 0; r < kLatentRows; ++r) {
      if (first + r >= args.n) break;
      const ulong at = ulong(first + r) * args.heads + head;
      sum[r] = dot4(weight, load4(found + at * args.rank + c), sum[r]);
    }
  }
#pragma unroll
  for (uint r = 0; r < kLatentRows; ++r) {
    const float total = simd_sum(sum[r]);
    const ulong at = ulong(first + r) * args.heads + head;
    if (lane == 0 && first + r < args.n) out[at * args.value_dim + v] = total;
  }
}

template [[host_name("latent_rows_f32")]] kernel decltype(latent_rows<float>) latent_rows<float>;
template [[host_name("latent_rows_bf16")]] kernel decltype(latent_rows<bf16>) latent_rows<bf16>;
