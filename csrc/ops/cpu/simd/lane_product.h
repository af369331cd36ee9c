// A product instruction as block_sums of gemm.inc uses it: kRows rows of codes, kColumns columns of
// each, by as many columns of kLanes / kRows tokens. Here a token a lane, by dot4, or, where that
// pays, by sums of 16 bits that are widened after a few steps.
#pragma once
#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

#ifndef MOEFLUX_NARROW_SUMS
template <int>
constexpr int kNarrowSteps = 0;  // no use for them: these are never called
ALWAYS_INLINE Ints add_narrow(Ints acc, Bytes, Bytes) {
  return acc;
}
ALWAYS_INLINE Ints add_wide(Ints acc, Ints) {
  return acc;
}
template <int>
ALWAYS_INLINE Ints narrow_sum(const Bytes*, const std::byte*) {
  return zero();
}
#endif

// acc + the sum of n dot4, of x at `x` and every `kVectorBytes` behind it.
template <int bits, int n>
ALWAYS_INLINE Ints add_dots(Ints acc, const Bytes* codes, const std::byte* x) {
  constexpr int steps = kNarrowSteps<bits> < n ? kNarrowSteps<bits> : n;
  if constexpr (steps < 2)
    for (int i = 0; i < n; ++i) acc = dot4<bits>(acc, codes[i], load_bytes(x + i * kVectorBytes));
  else
    repeat<n / steps>([&](auto i) ALWAYS_INLINE_LAMBDA {
      acc = add_wide(acc, narrow_sum<steps>(codes + i * steps, x + i * steps * kVectorBytes));
    });
  static_assert(steps < 2 || n % steps == 0);
  return acc;
}

struct LaneProduct {
  static constexpr int kRows = 1, kColumns = 4;
  // The i-th vector of tokens of x (columns / 4, 16 tokens, 4).
  static ALWAYS_INLINE Bytes load_tokens(const int8_t* x, int i) {
    return load_bytes(x + i * static_cast<int>(kVectorBytes));
  }
  // kRows rows of codes, `stride` bytes apart.
  static ALWAYS_INLINE Bytes load_codes(const uint8_t* codes, uint32_t) {
    return broadcast4(codes);
  }
  template <int bits>
  static ALWAYS_INLINE Ints add(Ints acc, Bytes codes, Bytes x) {
    return dot4<bits>(acc, codes, x);
  }
  // How many add_narrow may precede an add_wide; 0: `add` is as fast.
  template <int bits>
  static constexpr int kSteps = kNarrowSteps<bits>;
  // kRows rows of sums, `stride` numbers apart.
  static ALWAYS_INLINE void store(int32_t* to, uint32_t, Ints sums) { store_ints(to, sums); }
};

}  // namespace
}  // namespace moeflux::ops::cpu
