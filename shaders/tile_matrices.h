// The tile of tile.h by matrices of a SIMD group: the same stages, but each SIMD group multiplies
// blocks of 8 x 8, and reads the tiles a quarter as often. In which order Metal adds up the 8
// products of a block it does not say. Left out by translators that have no such matrices: they do
// not define MOEFLUX_MATRICES.
#pragma once
#include "common.h"

#ifdef __METAL_VERSION__
#define MOEFLUX_MATRICES 1
#endif

// 1: products of many rows go through matrices of a SIMD group.
/// @default 0
constant uint Matrices [[function_constant(10)]];

#ifdef MOEFLUX_MATRICES

constant constexpr uint kMatrix = 8;        // rows and columns of a matrix
constant constexpr uint kMatrixPitch = 12;  // floats of a token: a stage, and 4
constant constexpr uint kStagedPitch = 64;  // of a token's sums: 32 rows of each half
constant constexpr uint kStagedSums = 512;  // of a SIMD group: kMatrix tokens

// Everything of a tile of up to 16 kBlocks tokens; a SIMD group has kBlocks blocks of them and 32
// rows of each half.
template <uint kBlocks, typename Source, typename Sink>
inline void run_tile_by_matrices(thread Source& source,
                                 thread TokenRow& token,
                                 thread const Sink& sink,
                                 TilePlace place,
                                 uint in_dim,
                                 uint count,
                                 threadgroup float* w_tile,
                                 threadgroup float* x_tile) {
  const uint lane = place.own % kSimdWidth;
  const uint simdgroup = place.own / kSimdWidth;
  const uint first_row = simdgroup % 2 * 32;
  const uint first_token = simdgroup / 2 * kBlocks * kMatrix;
  simdgroup_float8x8 sums[8 * kBlocks];  // of a block: four of the first half, four of the second
  for (uint i = 0; i < 8 * kBlocks; ++i) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  const bool brings = place.token < 16 * kBlocks;  // of more tokens nobody asks
  const uint stages = (in_dim + kStage - 1) / kStage;
  if (stages != 0) begin(source);
  if (brings) load(token);
  for (uint stage = 0; stage <= stages; ++stage) {
    const uint now = stage % 2;
    if (stage < stages) {
      expand(source, place, w_tile + now * kStage * kWeightPitch);
      if (brings) {
        threadgroup float* to =
            x_tile + now * kStage * kTokenPitch + place.token * kMatrixPitch + place.quad;
        *(threadgroup float4*)to = token.next;
        load(token);
      }
    }
    if (stage != 0) {
      threadgroup const float* w = w_tile + (1 - now) * kStage * kWeightPitch + first_row;
      threadgroup const float* x = x_tile + (1 - now) * kStage * kTokenPitch;
      simdgroup_float8x8 tokens[kBlocks];
      for (uint b = 0; b < kBlocks; ++b)
        simdgroup_load(tokens[b], x + (first_token + b * kMatrix) * kMatrixPitch, kMatrixPitch);
      for (uint r = 0; r < 8; ++r) {
        simdgroup_float8x8 weights;
        simdgroup_load(weights, w + r / 4 * kHalfRows + r % 4 * kMatrix, kWeightPitch);
        for (uint b = 0; b < kBlocks; ++b)
          simdgroup_multiply_accumulate(sums[b * 8 + r], tokens[b], weights, sums[b * 8 + r]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  // The lanes of a matrix are Metal's secret: sums go through the tile of weights.
  threadgroup float* staged = w_tile + simdgroup * kStagedSums;
  place.row4 = first_row / 4 + lane % 8;
  for (uint b = 0; b < kBlocks; ++b) {
    for (uint r = 0; r < 8; ++r)
      simdgroup_store(sums[b * 8 + r], staged + r / 4 * 32 + r % 4 * kMatrix, kStagedPitch);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane / 8; i < kMatrix; i += 4) {
      threadgroup const float* from = staged + i * kStagedPitch + lane % 8 * 4;
      const uint at = first_token + b * kMatrix + i;
      if (at < count)
        store_sums(sink, place, at, *(threadgroup const float4*)from,
                   *(threadgroup const float4*)(from + 32));
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

#endif
