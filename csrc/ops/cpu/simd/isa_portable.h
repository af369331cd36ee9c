// No intrinsics: what the compiler makes of plain loops over 16 bytes.
#pragma once
#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

constexpr uint32_t kVectorBytes = 16;
constexpr uint32_t kLanes = 4;
constexpr bool kUnrollUsual = false;  // matvec.inc
constexpr bool kAnyWidth = true;      // dot4 is as fast for codes of all widths
struct Bytes {
  uint8_t at[16];
};
struct Ints {
  int32_t at[4];
};

ALWAYS_INLINE v16 fma(const v16& a, const v16& b, const v16& c) {
  return a * b + c;
}
ALWAYS_INLINE u16x16 extend_sign(const u8x16& bytes) {  // into bits 8 to 15
  typedef int8_t i8x16 __attribute__((vector_size(16)));
  typedef int16_t i16x16 __attribute__((vector_size(32)));
  return (u16x16) __builtin_convertvector((i8x16)bytes, i16x16);
}
ALWAYS_INLINE v16 widen_halves(const u16x16& halves) {  // f16, finite
  v16 to;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = (halves[i] & 0x8000u) << 16 | (halves[i] & 0x7fffu) << 13;
    float number;
    memcpy(&number, &bits, sizeof number);
    to[i] = number * 0x1p112f;
  }
  return to;
}
ALWAYS_INLINE void prefetch(const void*) {}
ALWAYS_INLINE Bytes load_bytes(const void* p) {
  Bytes v;
  memcpy(v.at, p, 16);
  return v;
}
ALWAYS_INLINE Ints zero() {
  return {};
}
ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
  memcpy(p, v.at, 16);
}
ALWAYS_INLINE Bytes broadcast4(const void* p) {
  Bytes v;
  for (int i = 0; i < 16; i += 4) memcpy(v.at + i, p, 4);
  return v;
}
ALWAYS_INLINE Ints join(Ints high, Ints low) {  // 256 * high + low
  for (int i = 0; i < 4; ++i) low.at[i] += high.at[i] * 256;
  return low;
}

// acc + sums of four products codes (unsigned) * x (signed), exact.
template <int bits>
ALWAYS_INLINE Ints dot4(Ints acc, Bytes codes, Bytes x) {
  for (int i = 0; i < 16; ++i) acc.at[i / 4] += codes.at[i] * static_cast<int8_t>(x.at[i]);
  return acc;
}

// One unit: kVectorBytes * planes codes, none of whose bytes behind `end` is touched. Plane p holds
// codes p, p + planes, ...
template <int bits>
ALWAYS_INLINE void unpack(const uint8_t* p, const uint8_t* end, Bytes* planes) {
  constexpr int mask = (1 << bits) - 1;
  uint8_t packed[17] = {};
  memcpy(packed, p, end - p < 16 ? end - p : 16);
  if constexpr (bits == 3 || bits == 5 || bits == 6) {
    for (int i = 0; i < 16; ++i) {
      const int bit = i * bits, window = packed[bit / 8] | packed[bit / 8 + 1] << 8;
      planes[0].at[i] = static_cast<uint8_t>(window >> bit % 8 & mask);
    }
  } else {
    for (int plane = 0; plane < 8 / bits; ++plane)
      for (int i = 0; i < 16; ++i)
        planes[plane].at[i] = static_cast<uint8_t>(packed[i] >> plane * bits & mask);
  }
}

ALWAYS_INLINE Bytes look_up(const uint8_t* table, Bytes codes) {  // of 16 bytes
  for (uint8_t& code : codes.at) code = table[code];
  return codes;
}

// v: n vectors, in each of which 4 / n groups lie one after the other, in n lanes each. Returns the
// 4 group sums in order.
ALWAYS_INLINE Ints group_sums(const Ints* v, uint32_t n) {
  Ints sums = {};
  for (uint32_t i = 0; i < n; ++i)
    for (uint32_t lane = 0; lane < 4; ++lane) sums.at[i * (4 / n) + lane / n] += v[i].at[lane];
  return sums;
}

}  // namespace
}  // namespace moeflux::ops::cpu
