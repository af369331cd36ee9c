// A tile of x in threadgroup memory for kernels whose lanes take 32 columns at a time. Transposed,
// so that lanes read side by side, with the sum of each 32 columns: of the term with the group's
// bias that is all a row needs, and it is the same for all rows.
#pragma once
#include "common.h"

constant constexpr uint kChunk = 32;       // columns
constant constexpr uint kTileChunks = 64;  // of x cached at a time: 2048 columns, as kTileColumns
constant constexpr uint kTilePitch = 65;   // one more: stores of a SIMD group fall in 32 banks
constant constexpr uint kTileSize = 520;   // 8 * kTilePitch float4s

// Chunks [begin, end) of x: columns 4 i .. 4 i + 3 of a chunk to tile[i * kTilePitch + chunk -
// begin], times `factor` (which may differ by lane: lane i brings column i), their sum to totals.
// To be called by all threads, whole SIMD groups; barriers are the caller's.
inline void load_chunks(device const float* x,
                        uint begin,
                        uint end,
                        float factor,
                        threadgroup float4* tile,
                        threadgroup float* totals,
                        uint lane,
                        uint simdgroup,
                        uint simdgroups) {
  threadgroup float* flat = (threadgroup float*)tile;
  for (uint chunk = begin + simdgroup; chunk < end; chunk += simdgroups) {
    const float value = x[chunk * kChunk + lane];
    const uint at = chunk - begin;
    flat[(lane / 4 * kTilePitch + at) * 4 + lane % 4] = value * factor;
    const float total = simd_sum(value);
    if (lane == 0) totals[at] = total;
  }
}
