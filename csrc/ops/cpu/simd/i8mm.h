// The 8-bit matrix instruction (FEAT_I8MM) as block_sums of gemm.inc uses it: two rows by two
// tokens by eight columns. Interface: lane_product.h.
#pragma once
#include "ops/cpu/simd/isa_neon.h"

namespace moeflux::ops::cpu {
namespace {

struct MatrixProduct {
  static constexpr int kRows = 2, kColumns = 8;
  // Tokens 2 i and 2 i + 1: four columns of them lie in one row of x, the next four in the row
  // after.
  static ALWAYS_INLINE Bytes load_tokens(const int8_t* x, int i) {
    constexpr int kRowBytes = kBlockTokens * 4;
    const uint32x4_t low = vreinterpretq_u32_u8(load_bytes(x + i / 2 * 16)),
                     high = vreinterpretq_u32_u8(load_bytes(x + kRowBytes + i / 2 * 16));
    return vreinterpretq_u8_u32(i % 2 ? vzip2q_u32(low, high) : vzip1q_u32(low, high));
  }
  static ALWAYS_INLINE Bytes load_codes(const uint8_t* codes, uint32_t stride) {
    return vcombine_u8(vld1_u8(codes), vld1_u8(codes + stride));
  }
  template <int>
  static ALWAYS_INLINE Ints add(Ints acc, Bytes codes, Bytes x) {
    return vusmmlaq_s32(acc, codes, vreinterpretq_s8_u8(x));
  }
  template <int>
  static constexpr int kSteps = 0;
  static ALWAYS_INLINE void store(int32_t* to, uint32_t stride, Ints sums) {
    vst1_s32(to, vget_low_s32(sums));
    vst1_s32(to + stride, vget_high_s32(sums));
  }
};

}  // namespace
}  // namespace moeflux::ops::cpu
