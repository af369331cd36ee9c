// AVX-512 (F, BW, VL, DQ), with VNNI and VBMI where the translation unit is compiled for them.
#pragma once
#include <immintrin.h>

#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

constexpr uint32_t kVectorBytes = 64;
constexpr uint32_t kLanes = 16;
constexpr bool kUnrollUsual = true;  // matvec.inc
#ifdef __AVX512VNNI__
constexpr bool kAnyWidth = true;  // dot4 is as fast for codes of all widths
#else
constexpr bool kAnyWidth = false;
#endif
using Bytes = __m512i;
using Ints = __m512i;

ALWAYS_INLINE v16 fma(const v16& a, const v16& b, const v16& c) {
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
ALWAYS_INLINE u16x16 extend_sign(const u8x16& bytes) {  // into bits 8 to 15
  return (u16x16)_mm256_cvtepi8_epi16((__m128i)bytes);
}
ALWAYS_INLINE v16 widen_halves(const u16x16& halves) {  // f16, finite
  return (v16)_mm512_cvtph_ps((__m256i)halves);
}
ALWAYS_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
ALWAYS_INLINE Bytes load_bytes(const void* p) {
  return _mm512_loadu_si512(p);
}
ALWAYS_INLINE Ints zero() {
  return _mm512_setzero_si512();
}
ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
  _mm512_storeu_si512(p, v);
}
ALWAYS_INLINE Bytes broadcast4(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
ALWAYS_INLINE Ints join(Ints high, Ints low) {  // 256 * high + low
  return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

// acc + sums of four products codes (unsigned) * x (signed), exact.
template <int bits>
ALWAYS_INLINE Ints dot4(Ints acc, Bytes codes, Bytes x) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(acc, codes, x);
#else
  const __m512i ones = _mm512_set1_epi16(1);
  if constexpr (bits < 8) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), ones));
  } else {  // maddubs would saturate: low and high nibbles on their own
    const __m512i mask = _mm512_set1_epi8(15);
    const Bytes low = _mm512_and_si512(codes, mask),
                high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask);
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(low, x), ones));
    return _mm512_add_epi32(
        acc, _mm512_madd_epi16(_mm512_maddubs_epi16(high, x), _mm512_set1_epi16(16)));
  }
#endif
}

// A vector of bytes, of which none behind `end` is touched.
ALWAYS_INLINE Bytes load_before(const uint8_t* p, const uint8_t* end) {
  if (end - p >= 64) return load_bytes(p);
  return _mm512_maskz_loadu_epi8((1ull << (end - p)) - 1, p);
}

template <int bits>
ALWAYS_INLINE Bytes unpack_odd(const uint8_t* p,
                               const uint8_t* end) {  // 3, 5, 6: 64 codes in order
  const Bytes packed = load_before(p, end);
#ifdef __AVX512VBMI__
  alignas(64) static constexpr auto kTables = [] {
    struct {
      uint8_t gather[64], shift[64];
    } t{};
    for (int i = 0; i < 64; ++i) {  // each quadword: the `bits` bytes of its eight codes
      t.gather[i] = static_cast<uint8_t>(i / 8 * bits + i % 8 % bits);
      t.shift[i] = static_cast<uint8_t>(i % 8 * bits);
    }
    return t;
  }();
  const Bytes octets = _mm512_permutexvar_epi8(_mm512_load_si512(kTables.gather), packed);
  const Bytes shifted = _mm512_multishift_epi64_epi8(_mm512_load_si512(kTables.shift), octets);
  return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << bits) - 1));
#else
  // Each 128-bit lane takes the 2 * bits bytes of its sixteen codes; a code is cut out of a 16-bit
  // window by a multiplication that moves its top to bit 15, and a shift down.
  alignas(64) static constexpr auto kTables = [] {
    struct {
      uint16_t lane[32];
      uint8_t window[2][64];
      uint16_t lift[2][32];
    } t{};
    for (int i = 0; i < 32; ++i) t.lane[i] = static_cast<uint16_t>(i / 8 * bits + i % 8);
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 32; ++i) {
        const int bit = (half * 8 + i % 8) * bits;
        t.window[half][2 * i] = static_cast<uint8_t>(bit / 8);
        t.window[half][2 * i + 1] = static_cast<uint8_t>(bit / 8 + 1);
        t.lift[half][i] = static_cast<uint16_t>(1 << (16 - bits - bit % 8));
      }
    return t;
  }();
  const Bytes lanes = _mm512_permutexvar_epi16(_mm512_load_si512(kTables.lane), packed);
  Bytes codes[2];
  for (int half = 0; half < 2; ++half)
    codes[half] = _mm512_srli_epi16(
        _mm512_mullo_epi16(_mm512_shuffle_epi8(lanes, _mm512_load_si512(kTables.window[half])),
                           _mm512_load_si512(kTables.lift[half])),
        16 - bits);
  Bytes all = _mm512_packus_epi16(codes[0], codes[1]);
  asm("" : "+v"(all));  // who takes the low half alone gets codes[0] narrowed from GCC 12.2
  return all;
#endif
}

// One unit: kVectorBytes * planes codes. Plane p holds codes p, p + planes, ...
template <int bits>
ALWAYS_INLINE void unpack(const uint8_t* p, const uint8_t* end, Bytes* planes) {
  if constexpr (bits == 3 || bits == 5 || bits == 6) {
    planes[0] = unpack_odd<bits>(p, end);
  } else {
    const Bytes packed = load_before(p, end);
    const Bytes mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
    planes[0] = bits == 8 ? packed : _mm512_and_si512(packed, mask);
    for (int plane = 1; plane < 8 / bits; ++plane)
      planes[plane] = _mm512_and_si512(_mm512_srli_epi16(packed, plane * bits), mask);
  }
}

ALWAYS_INLINE Bytes look_up(const uint8_t* table, Bytes codes) {  // of 16 bytes
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), codes);
}

ALWAYS_INLINE Ints pair_sums(Ints a, Ints b) {  // of neighbours: in 128 bits a01 a23 b01 b23
  const __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
  return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88)),
                          _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xdd)));
}
ALWAYS_INLINE Ints quad_sums(const Ints* v) {
  return pair_sums(pair_sums(v[0], v[1]), pair_sums(v[2], v[3]));
}
ALWAYS_INLINE Ints lane_pair_sums(Ints a, Ints b) {  // of 128-bit neighbours
  return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}
// v: n vectors, in each of which 16 / n groups lie one after the other, in n lanes each. Returns
// the 16 group sums in order.
ALWAYS_INLINE Ints group_sums(const Ints* v, uint32_t n) {
  if (n == 1) {
    return v[0];
  } else if (n == 2) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15),
        pair_sums(v[0], v[1]));
  } else if (n == 4) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), quad_sums(v));
  } else if (n == 8) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15),
        lane_pair_sums(quad_sums(v), quad_sums(v + 4)));
  } else {
    return lane_pair_sums(lane_pair_sums(quad_sums(v), quad_sums(v + 4)),
                          lane_pair_sums(quad_sums(v + 8), quad_sums(v + 12)));
  }
}

#ifdef __AVX512BF16__
#define MOEFLUX_BF16_PRODUCTS
using Pairs = __m512bh;  // 32 columns

template <bool whole>
ALWAYS_INLINE Pairs load_pairs(const void* p, uint32_t left) {  // zeros behind `left`
  return (Pairs)(whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((1u << left) - 1, p));
}
// Each lane adds the products of two columns.
ALWAYS_INLINE v16 add_pairs(v16 acc, Pairs a, Pairs b) {
  return (v16)_mm512_dpbf16_ps((__m512)acc, a, b);
}
#endif

}  // namespace
}  // namespace moeflux::ops::cpu
