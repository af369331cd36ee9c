// A product instruction as block_sums of gemm.inc uses it: kRows rows of codes, kColumns columns of
// each, by as many columns of kLanes / kRows tokens. Here a token a lane, by dot4.
#pragma once
#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

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
  // kRows rows of sums, `stride` numbers apart.
  static ALWAYS_INLINE void store(int32_t* to, uint32_t, Ints sums) { store_ints(to, sums); }
};

}  // namespace
}  // namespace moeflux::ops::cpu
