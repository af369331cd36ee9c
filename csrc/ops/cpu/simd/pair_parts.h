// What v16.h needs of vectors that are two registers (pair.h). Interface: native_parts.h has the
// same.
#pragma once
#include <stdint.h>
#include <string.h>

namespace moeflux::ops::cpu {
namespace {

ALWAYS_INLINE v16 broadcast(float a) {
  const float_lanes lanes = a - float_lanes{};  // of -0 as well, which a sum would lose
  return {lanes, lanes};
}
ALWAYS_INLINE i16 broadcast_int(int32_t a) {
  const int_lanes lanes = a - int_lanes{};
  return {lanes, lanes};
}
ALWAYS_INLINE v16 halves(float a, float b) {  // eight times each
  return {a - float_lanes{}, b - float_lanes{}};
}
// test(a, b) ? x : y, lane by lane.
template <class Test>
ALWAYS_INLINE v16 choose(const v16& a, const v16& b, const v16& x, const v16& y, Test test) {
  return {test(a.low, b.low) ? x.low : y.low, test(a.high, b.high) ? x.high : y.high};
}
template <class V>
ALWAYS_INLINE V pick(const i16& mask, const V& x, const V& y) {
  return {mask.low ? x.low : y.low, mask.high ? x.high : y.high};
}
ALWAYS_INLINE v16 to_float(const i16& v) {
  return {__builtin_convertvector(v.low, float_lanes),
          __builtin_convertvector(v.high, float_lanes)};
}
ALWAYS_INLINE i16 to_int(const v16& v) {  // towards zero
  return {__builtin_convertvector(v.low, int_lanes), __builtin_convertvector(v.high, int_lanes)};
}
typedef uint16_t half_lanes __attribute__((vector_size(16)));
ALWAYS_INLINE u32x16 to_words(const u16x16& v) {
  half_lanes part[2];
  memcpy(part, &v, sizeof part);
  return {__builtin_convertvector(part[0], word_lanes),
          __builtin_convertvector(part[1], word_lanes)};
}
typedef int8_t byte_lanes __attribute__((vector_size(8)));
ALWAYS_INLINE i16 load_int8(const std::byte* p) {  // 16 signed ones
  byte_lanes part[2];
  memcpy(part, p, sizeof part);
  return {__builtin_convertvector(part[0], int_lanes), __builtin_convertvector(part[1], int_lanes)};
}
ALWAYS_INLINE u16x16 to_halves(const u32x16& v) {
  const half_lanes part[2] = {__builtin_convertvector(v.low, half_lanes),
                              __builtin_convertvector(v.high, half_lanes)};
  u16x16 to;
  memcpy(&to, part, sizeof to);
  return to;
}
ALWAYS_INLINE i16 as_ints(const u32x16& v) {
  return {(int_lanes)v.low, (int_lanes)v.high};
}
typedef float_lanes v8;
ALWAYS_INLINE v8 low_half(const v16& v) {
  return v.low;
}
ALWAYS_INLINE v8 high_half(const v16& v) {
  return v.high;
}

template <class Lanes>
struct Unaligned {
  Lanes at;
} __attribute__((packed, may_alias));
template <class To, class Lanes, class Number>
ALWAYS_INLINE To load_pair(const Number* p) {
  const auto* parts = reinterpret_cast<const Unaligned<Lanes>*>(p);
  return {parts[0].at, parts[1].at};
}
template <class Lanes, class Number>
ALWAYS_INLINE void store_pair(Number* p, const Pair<Lanes, Number>& v) {
  auto* parts = reinterpret_cast<Unaligned<Lanes>*>(p);
  parts[0].at = v.low;
  parts[1].at = v.high;
}
ALWAYS_INLINE v16 load(const float* p) {
  return load_pair<v16, float_lanes>(p);
}
ALWAYS_INLINE void store(float* p, const v16& v) {
  store_pair(p, v);
}
ALWAYS_INLINE i16 load(const int32_t* p) {
  return load_pair<i16, int_lanes>(p);
}
ALWAYS_INLINE void store(int32_t* p, const i16& v) {
  store_pair(p, v);
}

// What lies in memory as a vector, or n in a row. By registers: GCC 12 copies a pair by 16 bytes.
ALWAYS_INLINE v16 fetch(const v16& v) {
  return load(reinterpret_cast<const float*>(&v));
}
ALWAYS_INLINE void keep(v16& to, const v16& v) {
  store(reinterpret_cast<float*>(&to), v);
}
template <int n>
ALWAYS_INLINE void fetch(const int32_t* p, i16* to) {
  for (int i = 0; i < n; ++i) to[i] = load(p + 16 * i);
}

}  // namespace
}  // namespace moeflux::ops::cpu
