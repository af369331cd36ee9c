// Many sums over lanes at once: each step halves what a lane has.
#pragma once
#include "common.h"

// Sums over the lanes that differ in the bits of `mask`: a lane keeps the half of `values` that its
// own bit names.
template <uint kCount>
inline void fold(thread float* values, ushort mask, uint lane) {
  const bool upper = (lane & mask) != 0;
  if (kCount == 1) {
    values[0] += simd_shuffle_xor(values[0], mask);
    return;
  }
#pragma unroll
  for (uint i = 0; i < kCount / 2; ++i) {
    const float kept = upper ? values[i + kCount / 2] : values[i];
    const float sent = upper ? values[i] : values[i + kCount / 2];
    values[i] = kept + simd_shuffle_xor(sent, mask);
  }
}
