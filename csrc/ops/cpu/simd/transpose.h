// 16 x 16 words in registers, from steps that every instruction set has: interleaving within 128
// bits, then exchanging 128-bit lanes. Included after the instruction set's header.
#pragma once
#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

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

}  // namespace
}  // namespace moeflux::ops::cpu
