// AVX2 with FMA and F16C, and AVX-VNNI where the translation unit is compiled for it.
#pragma once
#include <immintrin.h>

#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

constexpr uint32_t kVectorBytes = 32;
constexpr uint32_t kLanes = 8;
constexpr bool kUnrollUsual = true;  // matvec.inc
#ifdef __AVXVNNI__
constexpr bool kAnyWidth = true;  // dot4 is as fast for codes of all widths
#else
constexpr bool kAnyWidth = false;
#endif
using Bytes = __m256i;
using Ints = __m256i;

ALWAYS_INLINE v16 fma(const v16& a, const v16& b, const v16& c) {
  return {(float_lanes)_mm256_fmadd_ps((__m256)a.low, (__m256)b.low, (__m256)c.low),
          (float_lanes)_mm256_fmadd_ps((__m256)a.high, (__m256)b.high, (__m256)c.high)};
}
ALWAYS_INLINE u16x16 extend_sign(const u8x16& bytes) {  // into bits 8 to 15
  return (u16x16)_mm256_cvtepi8_epi16((__m128i)bytes);
}
ALWAYS_INLINE v16 widen_halves(const u16x16& halves) {  // f16, finite
  const __m256i v = (__m256i)halves;
  return {(float_lanes)_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
          (float_lanes)_mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
}
ALWAYS_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
ALWAYS_INLINE Bytes load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
ALWAYS_INLINE Ints zero() {
  return _mm256_setzero_si256();
}
ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}
ALWAYS_INLINE Bytes broadcast4(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
ALWAYS_INLINE Ints join(Ints high, Ints low) {  // 256 * high + low
  return _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
}

// How many sums of two products 16 bits hold: at most 2 * 128 * (2^bits - 1) each
// (lane_product.h).
#ifndef __AVXVNNI__
#define MOEFLUX_NARROW_SUMS
template <int bits>
constexpr int kNarrowSteps = bits <= 4   ? 8
                             : bits == 5 ? 4
                             : bits == 6 ? 2
                                         : 0;
// In order and in place: the compiler would take all products of a step before it adds one, which
// is more than the registers hold, and keep a sum in memory.
ALWAYS_INLINE Ints add_narrow(Ints acc, Bytes codes, Bytes x) {
  const __m256i products = _mm256_maddubs_epi16(codes, x);
  asm volatile("vpaddw %1, %0, %0" : "+x"(acc) : "x"(products));
  return acc;
}
ALWAYS_INLINE Ints add_wide(Ints acc, Ints narrow) {  // neighbours into 32 bits
  return _mm256_add_epi32(acc, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
}
// A sum of n <= kNarrowSteps products, in registers anyway.
template <int n>
ALWAYS_INLINE Ints narrow_sum(const Bytes* codes, const std::byte* x) {
  Ints sum = _mm256_maddubs_epi16(codes[0], load_bytes(x));
  for (int i = 1; i < n; ++i)
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[i], load_bytes(x + i * kVectorBytes)));
  return sum;
}
#endif

// acc + sums of four products codes (unsigned) * x (signed), exact.
template <int bits>
ALWAYS_INLINE Ints dot4(Ints acc, Bytes codes, Bytes x) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(acc, codes, x);
#else
  if constexpr (bits < 8) {
    return add_wide(acc, _mm256_maddubs_epi16(codes, x));
  } else {  // maddubs would saturate: low and high nibbles on their own
    const __m256i mask = _mm256_set1_epi8(15);
    const Bytes low = _mm256_and_si256(codes, mask),
                high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
    acc = add_wide(acc, _mm256_maddubs_epi16(low, x));
    return _mm256_add_epi32(
        acc, _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16)));
  }
#endif
}

// A vector of bytes, of which none behind `end` is touched.
ALWAYS_INLINE Bytes load_before(const uint8_t* p, const uint8_t* end) {
  if (end - p >= 32) return load_bytes(p);
  uint8_t padded[32] = {};
  memcpy(padded, p, end - p);
  return load_bytes(padded);
}

// 3, 5, 6 bits: 32 codes in order. Each 128-bit lane takes the 2 * bits bytes of its sixteen codes;
// a code is cut out of a 16-bit window by a multiplication that moves its top to bit 15, and a
// shift down.
template <int bits>
ALWAYS_INLINE Bytes unpack_odd(const uint8_t* p, const uint8_t* end) {
  alignas(32) static constexpr auto kTables = [] {
    struct {
      uint8_t window[2][32];
      uint16_t lift[2][16];
    } t{};
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 16; ++i) {
        const int bit = (half * 8 + i % 8) * bits;
        t.window[half][2 * i] = static_cast<uint8_t>(bit / 8);
        t.window[half][2 * i + 1] = static_cast<uint8_t>(bit / 8 + 1);
        t.lift[half][i] = static_cast<uint16_t>(1 << (16 - bits - bit % 8));
      }
    return t;
  }();
  uint8_t padded[32] = {};
  if (end - p < 32) {
    memcpy(padded, p, end - p);
    p = padded;
  }
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * bits));
  const Bytes lanes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  Bytes codes[2];
  for (int half = 0; half < 2; ++half)
    codes[half] = _mm256_srli_epi16(
        _mm256_mullo_epi16(_mm256_shuffle_epi8(lanes, load_bytes(kTables.window[half])),
                           load_bytes(kTables.lift[half])),
        16 - bits);
  return _mm256_packus_epi16(codes[0], codes[1]);
}

// One unit: kVectorBytes * planes codes. Plane p holds codes p, p + planes, ...
template <int bits>
ALWAYS_INLINE void unpack(const uint8_t* p, const uint8_t* end, Bytes* planes) {
  if constexpr (bits == 3 || bits == 5 || bits == 6) {
    planes[0] = unpack_odd<bits>(p, end);
  } else {
    const Bytes packed = load_before(p, end);
    const Bytes mask = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
    planes[0] = bits == 8 ? packed : _mm256_and_si256(packed, mask);
    for (int plane = 1; plane < 8 / bits; ++plane)
      planes[plane] = _mm256_and_si256(_mm256_srli_epi16(packed, plane * bits), mask);
  }
}

ALWAYS_INLINE Bytes look_up(const uint8_t* table, Bytes codes) {  // of 16 bytes
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), codes);
}

ALWAYS_INLINE Ints pair_sums(Ints a, Ints b) {  // of neighbours: in 128 bits a01 a23 b01 b23
  const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
  return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)),
                          _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd)));
}
ALWAYS_INLINE Ints quad_sums(const Ints* v) {
  return pair_sums(pair_sums(v[0], v[1]), pair_sums(v[2], v[3]));
}
// v: n vectors, in each of which 8 / n groups lie one after the other, in n lanes each. Returns the
// 8 group sums in order.
ALWAYS_INLINE Ints group_sums(const Ints* v, uint32_t n) {
  if (n == 1) {
    return v[0];
  } else if (n == 2) {
    return _mm256_permutevar8x32_epi32(pair_sums(v[0], v[1]),
                                       _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7));
  } else if (n == 4) {
    return _mm256_permutevar8x32_epi32(quad_sums(v), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  } else {
    const Ints a = quad_sums(v), b = quad_sums(v + 4);
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
  }
}

}  // namespace
}  // namespace moeflux::ops::cpu
