// NEON of Armv8-A, with the dot product (FEAT_DotProd), the 8-bit matrix (FEAT_I8MM) and the
// bfloat16 instructions (FEAT_BF16) where the translation unit is compiled for them.
#pragma once
#include <arm_neon.h>

#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

constexpr uint32_t kVectorBytes = 16;
constexpr uint32_t kLanes = 4;
constexpr bool kUnrollUsual = true;  // matvec.inc
#ifdef __ARM_FEATURE_MATMUL_INT8
constexpr bool kAnyWidth = true;  // dot4 is as fast for codes of all widths
#else
constexpr bool kAnyWidth = false;
#endif
using Bytes = uint8x16_t;
using Ints = int32x4_t;

ALWAYS_INLINE v16 fma(const v16& a, const v16& b, const v16& c) {
  float32x4_t x[4], y[4], z[4];
  memcpy(x, &a, 64);
  memcpy(y, &b, 64);
  memcpy(z, &c, 64);
  for (int i = 0; i < 4; ++i) z[i] = vfmaq_f32(z[i], x[i], y[i]);
  v16 out;
  memcpy(&out, z, 64);
  return out;
}
ALWAYS_INLINE u16x16 extend_sign(const u8x16& bytes) {  // into bits 8 to 15
  typedef int8_t i8x16 __attribute__((vector_size(16)));
  typedef int16_t i16x16 __attribute__((vector_size(32)));
  return (u16x16) __builtin_convertvector((i8x16)bytes, i16x16);
}
ALWAYS_INLINE v16 widen_halves(const u16x16& halves) {  // f16, finite
  v16 to;
  for (int i = 0; i < 4; ++i) {
    uint16x4_t four;
    memcpy(&four, reinterpret_cast<const char*>(&halves) + i * sizeof four, sizeof four);
    const float32x4_t wide = vcvt_f32_f16(vreinterpret_f16_u16(four));
    memcpy(reinterpret_cast<char*>(&to) + i * sizeof wide, &wide, sizeof wide);
  }
  return to;
}
ALWAYS_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p);
}
ALWAYS_INLINE Bytes load_bytes(const void* p) {
  return vld1q_u8(static_cast<const uint8_t*>(p));
}
ALWAYS_INLINE Ints zero() {
  return vdupq_n_s32(0);
}
ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
  vst1q_s32(p, v);
}
ALWAYS_INLINE Bytes broadcast4(const void* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return vreinterpretq_u8_u32(vdupq_n_u32(word));
}
ALWAYS_INLINE Ints join(Ints high, Ints low) {  // 256 * high + low
  return vaddq_s32(vshlq_n_s32(high, 8), low);
}

// acc + sums of four products codes (unsigned) * x (signed), exact. Codes below 128 are the same
// numbers as signed ones; 8-bit codes take a detour where no instruction multiplies mixed signs.
template <int bits>
ALWAYS_INLINE Ints dot4(Ints acc, Bytes codes, Bytes x) {
  const int8x16_t signed_codes = vreinterpretq_s8_u8(codes), value = vreinterpretq_s8_u8(x);
#if defined(__ARM_FEATURE_MATMUL_INT8)
  if constexpr (bits == 8) return vusdotq_s32(acc, codes, value);
  return vdotq_s32(acc, signed_codes, value);
#elif defined(__ARM_FEATURE_DOTPROD)
  if constexpr (bits < 8) return vdotq_s32(acc, signed_codes, value);
  // code = (code - 128) + 64 + 64
  const int8x16_t half = vdupq_n_s8(64);
  acc = vdotq_s32(acc, vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))), value);
  return vdotq_s32(vdotq_s32(acc, half, value), half, value);
#else
  // Two products of 7 and 8 bits fit 16.
  const int8x16_t low = bits < 8 ? signed_codes : vandq_s8(signed_codes, vdupq_n_s8(127));
  acc = vpadalq_s16(
      acc, vpaddq_s16(vmull_s8(vget_low_s8(low), vget_low_s8(value)), vmull_high_s8(low, value)));
  if constexpr (bits < 8) return acc;
  const int8x16_t top = vandq_s8(vshrq_n_s8(signed_codes, 7), value);  // x where code >= 128
  return vpadalq_s16(acc, vshlq_n_s16(vpaddlq_s8(top), 7));
#endif
}

// A vector of bytes, of which none behind `end` is touched.
ALWAYS_INLINE Bytes load_before(const uint8_t* p, const uint8_t* end) {
  if (end - p >= 16) return load_bytes(p);
  uint8_t padded[16] = {};
  memcpy(padded, p, end - p);
  return load_bytes(padded);
}

// 3, 5, 6 bits: 16 codes in order, each cut out of a 16-bit window.
template <int bits>
ALWAYS_INLINE Bytes unpack_odd(const uint8_t* p, const uint8_t* end) {
  alignas(16) static constexpr auto kTables = [] {
    struct {
      uint8_t window[2][16];
      int16_t shift[2][8];
    } t{};
    for (int i = 0; i < 16; ++i) {
      const int bit = i * bits;
      t.window[i / 8][i % 8 * 2] = static_cast<uint8_t>(bit / 8);
      t.window[i / 8][i % 8 * 2 + 1] = static_cast<uint8_t>(bit / 8 + 1);
      t.shift[i / 8][i % 8] = static_cast<int16_t>(-(bit % 8));
    }
    return t;
  }();
  const Bytes packed = load_before(p, end);
  Bytes codes[2];
  for (int half = 0; half < 2; ++half) {
    const Bytes window = vqtbl1q_u8(packed, load_bytes(kTables.window[half]));
    codes[half] = vreinterpretq_u8_u16(
        vshlq_u16(vreinterpretq_u16_u8(window), vld1q_s16(kTables.shift[half])));
  }
  return vandq_u8(vuzp1q_u8(codes[0], codes[1]), vdupq_n_u8((1 << bits) - 1));
}

// One unit: kVectorBytes * planes codes. Plane p holds codes p, p + planes, ...
template <int bits>
ALWAYS_INLINE void unpack(const uint8_t* p, const uint8_t* end, Bytes* planes) {
  if constexpr (bits == 3 || bits == 5 || bits == 6) {
    planes[0] = unpack_odd<bits>(p, end);
  } else {
    const Bytes packed = load_before(p, end), mask = vdupq_n_u8((1 << bits) - 1);
    for (int plane = 0; plane < 8 / bits; ++plane)
      planes[plane] = (packed >> static_cast<uint8_t>(plane * bits)) & mask;
  }
}

ALWAYS_INLINE Bytes look_up(const uint8_t* table, Bytes codes) {  // of 16 bytes
  return vqtbl1q_u8(vld1q_u8(table), codes);
}

// v: n vectors, in each of which 4 / n groups lie one after the other, in n lanes each. Returns the
// 4 group sums in order.
ALWAYS_INLINE Ints group_sums(const Ints* v, uint32_t n) {
  if (n == 1) return v[0];
  const Ints pairs = vpaddq_s32(v[0], v[1]);
  return n == 2 ? pairs : vpaddq_s32(pairs, vpaddq_s32(v[2], v[3]));
}

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#define MOEFLUX_BF16_PRODUCTS
struct Pairs {  // 32 columns
  bfloat16x8_t at[4];
};

template <bool whole>
ALWAYS_INLINE Pairs load_pairs(const void* p, uint32_t left) {  // zeros behind `left`
  Pairs v = {};
  memcpy(&v, p, whole ? sizeof v : 2 * left);
  return v;
}
// Each lane adds the products of two columns.
ALWAYS_INLINE v16 add_pairs(const v16& acc, const Pairs& a, const Pairs& b) {
  float32x4_t sums[4];
  memcpy(sums, &acc, 64);
  for (int i = 0; i < 4; ++i) sums[i] = vbfdotq_f32(sums[i], a.at[i], b.at[i]);
  v16 out;
  memcpy(&out, sums, 64);
  return out;
}
#endif

}  // namespace
}  // namespace moeflux::ops::cpu
