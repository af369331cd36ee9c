// What every instruction set's header starts from: vector types of 16 lanes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX2__) && !defined(__AVX512F__)
#define MOEFLUX_PAIRS
#include "ops/cpu/simd/pair.h"
#endif

namespace moeflux::ops::cpu {
namespace {

#ifndef MOEFLUX_PAIRS
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
#endif

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// f(0), ..., f(n - 1), written out: arrays that are indexed by i stay in registers.
template <int value>
struct Index {
  constexpr operator int() const { return value; }
};
template <int n, int i = 0, class F>
ALWAYS_INLINE void repeat(F&& f) {
  if constexpr (i < n) {
    f(Index<i>{});
    repeat<n, i + 1>(f);
  }
}

}  // namespace
}  // namespace moeflux::ops::cpu
