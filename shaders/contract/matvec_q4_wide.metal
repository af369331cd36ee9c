// out = dequant(W) x for 4-bit W: two more forms of dequant_matvec_4bit_v3 (eight rows a
// threadgroup of 256, x cached by tiles), which spend fewer instructions a weight.
#include "../affine.h"
#include "../column_tile.h"

constant constexpr uint kHalfSimd = 16;      // lanes: as many as a code has values
constant constexpr uint kSegment = 64;       // columns of four codes a lane of half a SIMD group
constant constexpr uint kTileSegments = 32;  // kTileColumns / kSegment

// out = W x, shapes as dequant_matvec_4bit; W 16-byte aligned. With 128-bit weight loads: a lane
// takes 32 codes of one group at a time. Codes are masked in place, not shifted: column i of x is
// cached times 16^-(i % 4), which is exact.
/// @elements W out_dim * in_dim / 8
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require grid / 32 >= out_dim
kernel void dequant_matvec_4bit_v4(device const uint4* W [[buffer(0)]],
                                   device const bf16* scales [[buffer(1)]],
                                   device const bf16* biases [[buffer(2)]],
                                   device const float* x [[buffer(3)]],
                                   device float* out [[buffer(4)]],
                                   constant uint& out_dim [[buffer(5)]],
                                   constant uint& in_dim [[buffer(6)]],
                                   constant uint& group_size [[buffer(7)]],
                                   uint group [[threadgroup_position_in_grid]],
                                   uint lane [[thread_index_in_simdgroup]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]],
                                   uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float4 tile[kTileSize];
  threadgroup float totals[kTileChunks];
  const uint row = group * 8 + simdgroup;
  const bool live = row < out_dim;
  const uint n_chunks = in_dim / kChunk;
  const uint row_chunks = live ? n_chunks : 0;
  const uint n_groups = in_dim / group_size;
  device const uint4* words = W + ulong(live ? row : 0) * n_chunks;
  device const bf16* row_scales = scales + ulong(live ? row : 0) * n_groups;
  device const bf16* row_biases = biases + ulong(live ? row : 0) * n_groups;
  const float unshift = as_type<float>((127u - 4u * (lane % 4)) << 23);  // 16^-(lane % 4)

  GroupWalk walk = group_walk(lane, kSimdWidth, group_size / kChunk);
  float sum = 0.0f;
  for (uint begin = 0; begin < n_chunks; begin += kTileChunks) {
    const uint end = min(begin + kTileChunks, n_chunks);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile has been read
    load_chunks(x, begin, end, unshift, tile, totals, lane, simdgroup, simdgroups);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (; walk.at < min(end, row_chunks); advance(walk)) {
      const uint4 codes = words[walk.at];
      const uint at = walk.at - begin;
      float4 dot = float4(0.0f, 0.0f, 0.0f, 0.0f);
      for (uint i = 0; i < 4; ++i) {
        const uint word = codes[i];
        const uint4 low = uint4(word & 0xfu, word & 0xf0u, word & 0xf00u, word & 0xf000u);
        const uint high = word >> 16;
        const uint4 top = uint4(high & 0xfu, high & 0xf0u, high & 0xf00u, high & 0xf000u);
        dot = fma(float4(low), tile[2 * i * kTilePitch + at], dot);
        dot = fma(float4(top), tile[(2 * i + 1) * kTilePitch + at], dot);
      }
      sum = fma(to_f32(row_scales[walk.group]), sum4(dot), sum);
      sum = fma(to_f32(row_biases[walk.group]), totals[at], sum);
    }
  }
  sum = simd_sum(sum);
  if (live && lane == 0) out[row] = sum;
}

// out = W x, shapes as dequant_matvec_4bit. With a lookup table per group: half a SIMD group takes
// a group of columns, its 16 lanes hold the 16 values that a code can have there, and a code is
// looked up by a shuffle: no conversion and no scaling a weight. For up to 64 columns a lane reads
// four codes; the tile has room for 64 columns even where a group has fewer, zeros behind them.
/// @elements W out_dim * in_dim / 8
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require group_size % 8 == 0
/// @require in_dim % group_size == 0
/// @require grid / 32 >= out_dim
kernel void dequant_matvec_4bit_v5(device const uint* W [[buffer(0)]],
                                   device const bf16* scales [[buffer(1)]],
                                   device const bf16* biases [[buffer(2)]],
                                   device const float* x [[buffer(3)]],
                                   device float* out [[buffer(4)]],
                                   constant uint& out_dim [[buffer(5)]],
                                   constant uint& in_dim [[buffer(6)]],
                                   constant uint& group_size [[buffer(7)]],
                                   uint group [[threadgroup_position_in_grid]],
                                   uint thread_index [[thread_index_in_threadgroup]],
                                   uint threads [[threads_per_threadgroup]],
                                   uint lane [[thread_index_in_simdgroup]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 tile[kTileSegments * kSegment / 4];
  const uint row = group * 8 + simdgroup;
  const bool live = row < out_dim;
  const uint n_groups = in_dim / group_size;
  const uint segments_per_group = (group_size + kSegment - 1) / kSegment;
  const uint n_segments = n_groups * segments_per_group;
  device const ushort* codes = (device const ushort*)(W) + ulong(live ? row : 0) * (in_dim / 4);
  device const bf16* row_scales = scales + ulong(live ? row : 0) * n_groups;
  device const bf16* row_biases = biases + ulong(live ? row : 0) * n_groups;
  const uint half_begin = lane & kHalfSimd;
  const uint entry = lane % kHalfSimd;  // table entry of this lane, and its place in a segment

  GroupWalk walk = group_walk(lane / kHalfSimd, 2, segments_per_group);
  float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (uint begin = 0; begin < n_segments; begin += kTileSegments) {
    const uint end = min(begin + kTileSegments, n_segments);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile has been read
    for (uint i = thread_index; i < (end - begin) * kHalfSimd; i += threads) {
      const uint segment = begin + i / kHalfSimd;
      const uint in_group = segment % segments_per_group * kSegment + i % kHalfSimd * 4;
      device const float* from = x + segment / segments_per_group * group_size + in_group;
      float4 columns = float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (in_group < group_size) columns = float4(from[0], from[1], from[2], from[3]);
      tile[i] = columns;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint pair = begin; pair < end; pair += 2) {  // two segments, one a half
      const bool inside = live && walk.at < end;
      const float scale = inside ? to_f32(row_scales[walk.group]) : 0.0f;
      const float bias = inside ? to_f32(row_biases[walk.group]) : 0.0f;
      const float value = fma(float(entry), scale, bias);
      const uint in_group = walk.rest * kSegment + entry * 4;
      const bool used = inside && in_group < group_size;
      const uint code = used ? codes[(walk.group * group_size + in_group) / 4] : 0;
      const float4 weight = float4(simd_shuffle(value, ushort(half_begin + (code & 15))),
                                   simd_shuffle(value, ushort(half_begin + (code >> 4 & 15))),
                                   simd_shuffle(value, ushort(half_begin + (code >> 8 & 15))),
                                   simd_shuffle(value, ushort(half_begin + (code >> 12 & 15))));
      if (used) sum = fma(weight, tile[(walk.at - begin) * kHalfSimd + entry], sum);
      advance(walk);
    }
  }
  const float dot = simd_sum(sum4(sum));
  if (live && lane == 0) out[row] = dot;
}
