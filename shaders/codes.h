// Affine-quantised matrices of any width and type of scale. A row is a stream of in_dim codes of
// Bits bits, packed little-end first without gaps in u32 words, so that 32 codes are Bits words and
// 8 codes Bits bytes; w = q * scale + bias with one pair per group_size columns, a multiple of 32.
#pragma once
#include "common.h"

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
