// Affine-quantised matrices of any width and type of scale. A row is a stream of in_dim codes of
// Bits bits, packed little-end first without gaps in u32 words, so that 32 codes are Bits words and
// 8 codes Bits bytes; w = q * scale + bias with one pair per group_size columns, a multiple of 32.
#pragma once
#include "column_tile.h"

// Bits of a code: 2, 3, 4, 5, 6 or 8; known when the pipeline is made, so that all shifts are
// constants.
/// @default 4
constant uint Bits [[function_constant(2)]];

// Codes first .. first + 7 of a row, first a multiple of 8; they lie in one word or two (which
// would not be so for 7 bits), and no other is read.
inline ulong codes8(device const uint* row, ulong first) {
  const ulong byte = first / 8 * Bits;
  device const uint* words = row + byte / 4;
  const uint shift = uint(byte % 4) * 8;
  ulong codes = ulong(words[0]) >> shift;
  if (shift + 8 * Bits > 32) codes |= ulong(words[1]) << (32 - shift);
  return codes;
}

// Code i of eight.
inline float code_of(ulong codes, uint i) {
  return float(uint(codes >> (Bits * i)) & ((1u << Bits) - 1u));
}

// w . x for one row per SIMD group, in all its lanes; words, scales, biases start at the row. A
// lane takes 32 columns at a time. To be called by the whole threadgroup; where `live` is false the
// SIMD group reads no weights.
template <typename Scale>
inline float chunked_row_dot(device const uint* words,
                             device const Scale* scales,
                             device const Scale* biases,
                             bool live,
                             device const float* x,
                             uint in_dim,
                             uint group_size,
                             threadgroup float4* tile,
                             threadgroup float* totals,
                             uint lane,
                             uint simdgroup,
                             uint simdgroups) {
  const uint n_chunks = in_dim / kChunk;
  const uint row_chunks = live ? n_chunks : 0;
  const uint chunks_per_group = group_size / kChunk;
  float sum = 0.0f;
  for (uint begin = 0; begin < n_chunks; begin += kTileChunks) {
    const uint end = min(begin + kTileChunks, n_chunks);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile has been read
    load_chunks(x, begin, end, 1.0f, tile, totals, lane, simdgroup, simdgroups);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint chunk = begin + lane; chunk < min(end, row_chunks); chunk += kSimdWidth) {
      float4 dot = float4(0.0f, 0.0f, 0.0f, 0.0f);
      threadgroup const float4* columns = tile + (chunk - begin);
      for (uint i = 0; i < 8; i += 2) {
        const ulong codes = codes8(words, ulong(chunk) * kChunk + 4 * i);
        dot =
            fma(float4(code_of(codes, 0), code_of(codes, 1), code_of(codes, 2), code_of(codes, 3)),
                columns[i * kTilePitch], dot);
        dot =
            fma(float4(code_of(codes, 4), code_of(codes, 5), code_of(codes, 6), code_of(codes, 7)),
                columns[(i + 1) * kTilePitch], dot);
      }
      const uint group = chunk / chunks_per_group;  // one division per 32 columns
      sum = fma(to_f32(scales[group]), sum4(dot), sum);
      sum = fma(to_f32(biases[group]), totals[chunk - begin], sum);
    }
  }
  return simd_sum(sum);
}
