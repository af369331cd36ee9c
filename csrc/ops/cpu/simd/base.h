// What every instruction set's header starts from: vector types of 16 lanes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

namespace moeflux::ops::cpu {
namespace {

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

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
