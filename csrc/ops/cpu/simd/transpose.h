// 16 x 16 words in registers, from steps that every instruction set has: interleaving within 128
// bits, then exchanging 128-bit lanes. Included after the instruction set's header.
#pragma once
#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

#ifdef MOEFLUX_PAIRS
ALWAYS_INLINE void transpose8(int_lanes* v) {
  int_lanes t[8];
  for (int i = 0; i < 8; i += 4) {  // 4 x 4 words within each 128 bits
    const auto low = [&](int j) ALWAYS_INLINE_LAMBDA {
      return __builtin_shufflevector(v[j], v[j + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    };
    const auto high = [&](int j) ALWAYS_INLINE_LAMBDA {
      return __builtin_shufflevector(v[j], v[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    };
    t[i] = __builtin_shufflevector(low(i), low(i + 2), 0, 1, 8, 9, 4, 5, 12, 13);
    t[i + 1] = __builtin_shufflevector(low(i), low(i + 2), 2, 3, 10, 11, 6, 7, 14, 15);
    t[i + 2] = __builtin_shufflevector(high(i), high(i + 2), 0, 1, 8, 9, 4, 5, 12, 13);
    t[i + 3] = __builtin_shufflevector(high(i), high(i + 2), 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int j = 0; j < 4; ++j) {  // 2 x 2 lanes of 128 bits
    v[j] = __builtin_shufflevector(t[j], t[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[j + 4] = __builtin_shufflevector(t[j], t[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

ALWAYS_INLINE void transpose16(i16* v) {
  int_lanes block[2][2][8];  // (rows, columns) of eight
  for (int i = 0; i < 16; ++i) {
    block[i / 8][0][i % 8] = v[i].low;
    block[i / 8][1][i % 8] = v[i].high;
  }
  for (auto& row : block)
    for (auto& b : row) transpose8(b);
  for (int i = 0; i < 16; ++i) v[i] = {block[0][i / 8][i % 8], block[1][i / 8][i % 8]};
}
#else
#define LANES(a, b, c, d) \
  a, a + 1, a + 2, a + 3, b, b + 1, b + 2, b + 3, c, c + 1, c + 2, c + 3, d, d + 1, d + 2, d + 3
#define WORDS(a, b, c, d) \
  a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12

ALWAYS_INLINE void transpose16(i16* v) {
  i16 t[16];
  for (int i = 0; i < 16; i += 4) {  // 4 x 4 words within each 128 bits
    const i16 ab_low = __builtin_shufflevector(v[i], v[i + 1], WORDS(0, 16, 1, 17)),
              ab_high = __builtin_shufflevector(v[i], v[i + 1], WORDS(2, 18, 3, 19)),
              cd_low = __builtin_shufflevector(v[i + 2], v[i + 3], WORDS(0, 16, 1, 17)),
              cd_high = __builtin_shufflevector(v[i + 2], v[i + 3], WORDS(2, 18, 3, 19));
    t[i] = __builtin_shufflevector(ab_low, cd_low, WORDS(0, 1, 16, 17));
    t[i + 1] = __builtin_shufflevector(ab_low, cd_low, WORDS(2, 3, 18, 19));
    t[i + 2] = __builtin_shufflevector(ab_high, cd_high, WORDS(0, 1, 16, 17));
    t[i + 3] = __builtin_shufflevector(ab_high, cd_high, WORDS(2, 3, 18, 19));
  }
  for (int j = 0; j < 4; ++j) {  // 4 x 4 lanes of 128 bits
    const i16 even_a = __builtin_shufflevector(t[j], t[j + 4], LANES(0, 8, 16, 24)),
              odd_a = __builtin_shufflevector(t[j], t[j + 4], LANES(4, 12, 20, 28)),
              even_b = __builtin_shufflevector(t[j + 8], t[j + 12], LANES(0, 8, 16, 24)),
              odd_b = __builtin_shufflevector(t[j + 8], t[j + 12], LANES(4, 12, 20, 28));
    v[j] = __builtin_shufflevector(even_a, even_b, LANES(0, 8, 16, 24));
    v[j + 8] = __builtin_shufflevector(even_a, even_b, LANES(4, 12, 20, 28));
    v[j + 4] = __builtin_shufflevector(odd_a, odd_b, LANES(0, 8, 16, 24));
    v[j + 12] = __builtin_shufflevector(odd_a, odd_b, LANES(4, 12, 20, 28));
  }
}

#undef LANES
#undef WORDS
#endif

}  // namespace
}  // namespace moeflux::ops::cpu
