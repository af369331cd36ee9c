// What v16.h needs of the compiler's own vectors of 64 bytes, for machines that have registers as
// wide, or much narrower ones. Interface: pair_parts.h has the same.
#pragma once
#include <stdint.h>
#include <string.h>

namespace moeflux::ops::cpu {
namespace {

// Conversions, choices and copies of a number in inner loops are written a register at a time:
// those of vectors wider than the machine's become scalars in GCC 12. Hence also broadcast(a) * v
// where a is not a constant.
typedef float float_lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t int_lanes __attribute__((vector_size(4 * kLanes)));
typedef uint32_t word_lanes __attribute__((vector_size(4 * kLanes)));
typedef uint16_t half_lanes __attribute__((vector_size(2 * kLanes)));

template <class ToLanes, class FromLanes, class To, class From>
ALWAYS_INLINE To convert(const From& from) {
  To to;
  for (uint32_t i = 0; i < 16 / kLanes; ++i) {
    FromLanes a;
    memcpy(&a, reinterpret_cast<const char*>(&from) + i * sizeof a, sizeof a);
    const ToLanes b = __builtin_convertvector(a, ToLanes);
    memcpy(reinterpret_cast<char*>(&to) + i * sizeof b, &b, sizeof b);
  }
  return to;
}
template <class Lanes, class To, class Number>
ALWAYS_INLINE To copies(Number a) {
  const Lanes lanes = a - Lanes{};  // of -0 as well, which a sum would lose
  To to;
  for (uint32_t i = 0; i < 16 / kLanes; ++i)
    memcpy(reinterpret_cast<char*>(&to) + i * sizeof lanes, &lanes, sizeof lanes);
  return to;
}
ALWAYS_INLINE v16 broadcast(float a) {
  return copies<float_lanes, v16>(a);
}
ALWAYS_INLINE i16 broadcast_int(int32_t a) {
  return copies<int_lanes, i16>(a);
}
// test(a, b) ? x : y, lane by lane.
template <class Test>
ALWAYS_INLINE v16 choose(const v16& a, const v16& b, const v16& x, const v16& y, Test test) {
  v16 to;
  for (uint32_t i = 0; i < sizeof to; i += sizeof(float_lanes)) {
    const auto part = [i](const v16& v) ALWAYS_INLINE_LAMBDA {
      float_lanes lanes;
      memcpy(&lanes, reinterpret_cast<const char*>(&v) + i, sizeof lanes);
      return lanes;
    };
    const float_lanes lanes = test(part(a), part(b)) ? part(x) : part(y);
    memcpy(reinterpret_cast<char*>(&to) + i, &lanes, sizeof lanes);
  }
  return to;
}
template <class Mask, class V>
ALWAYS_INLINE V pick(const Mask& mask, const V& x, const V& y) {
  return mask ? x : y;
}
ALWAYS_INLINE v16 to_float(const i16& v) {
  return convert<float_lanes, int_lanes, v16>(v);
}
ALWAYS_INLINE i16 to_int(const v16& v) {  // towards zero
  return convert<int_lanes, float_lanes, i16>(v);
}
ALWAYS_INLINE u32x16 to_words(const u16x16& v) {
  return convert<word_lanes, half_lanes, u32x16>(v);
}
typedef int8_t byte_lanes __attribute__((vector_size(kLanes)));
ALWAYS_INLINE i16 load_int8(const std::byte* p) {  // 16 signed ones
  i16 to;
  for (uint32_t i = 0; i < 16; i += kLanes) {
    byte_lanes part;
    memcpy(&part, p + i, sizeof part);
    const int_lanes wide = __builtin_convertvector(part, int_lanes);
    memcpy(reinterpret_cast<char*>(&to) + 4 * i, &wide, sizeof wide);
  }
  return to;
}
ALWAYS_INLINE u16x16 to_halves(const u32x16& v) {
  return __builtin_convertvector(v, u16x16);
}
ALWAYS_INLINE i16 as_ints(const u32x16& v) {
  return (i16)v;
}
typedef float v8 __attribute__((vector_size(32)));
ALWAYS_INLINE v16 halves(float a, float b) {  // eight times each
  v16 to;
  if constexpr (kLanes > 8) {
    // In registers: a load waits for two stores that it takes its halves from.
    to = __builtin_shufflevector(a - v8{}, b - v8{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                 14, 15);
  } else {
    for (uint32_t i = 0; i < 16 / kLanes; ++i) {
      const float_lanes lanes = (i * kLanes < 8 ? a : b) - float_lanes{};
      memcpy(reinterpret_cast<char*>(&to) + i * sizeof lanes, &lanes, sizeof lanes);
    }
  }
  return to;
}
ALWAYS_INLINE v8 low_half(const v16& v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
}
ALWAYS_INLINE v8 high_half(const v16& v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}

ALWAYS_INLINE v16 load(const float* p) {
  v16 v;
  for (uint32_t i = 0; i < sizeof v; i += sizeof(float_lanes))
    memcpy(reinterpret_cast<char*>(&v) + i, reinterpret_cast<const char*>(p) + i,
           sizeof(float_lanes));
  return v;
}
ALWAYS_INLINE void store(float* p, const v16& v) {
  for (uint32_t i = 0; i < sizeof v; i += sizeof(float_lanes))
    memcpy(reinterpret_cast<char*>(p) + i, reinterpret_cast<const char*>(&v) + i,
           sizeof(float_lanes));
}
ALWAYS_INLINE i16 load(const int32_t* p) {
  i16 v;
  memcpy(&v, p, sizeof v);
  return v;
}
ALWAYS_INLINE void store(int32_t* p, const i16& v) {
  memcpy(p, &v, sizeof v);
}

// What lies in memory as a vector, or n in a row. By type where a vector is a register: copied as
// bytes, it might alias anything, and gemm is half as slow again (measured on AVX-512 and AMX).
ALWAYS_INLINE v16 fetch(const v16& v) {
  return v;
}
ALWAYS_INLINE void keep(v16& to, const v16& v) {
  to = v;
}
template <int n>
ALWAYS_INLINE void fetch(const int32_t* p, i16* to) {
  memcpy(to, p, n * sizeof(i16));
}

}  // namespace
}  // namespace moeflux::ops::cpu
