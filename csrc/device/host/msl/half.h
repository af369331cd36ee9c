// Metal's half for compilers without a native one (g++ 12): every operation is done in float and
// rounded once, which is the correctly rounded 16-bit result (24 >= 2 * 11 + 2 bits).
#pragma once
#include <bit>
#include <concepts>
#include <cstdint>

namespace metal {

namespace detail {
inline float half_to_float(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31,
                 mantissa = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // subnormal: mantissa * 2^-24
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline uint16_t float_to_half(float value) {
  const uint32_t all = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (all >> 16) & 0x8000u, bits = all & 0x7fffffffu;
  uint32_t result = 0;
  if (bits > 0x7f800000u)
    result = 0x7e00u;  // NaN
  else if (bits >= 0x477ff000u)
    result = 0x7c00u;           // rounds to infinity
  else if (bits < 0x38800000u)  // subnormal: adding 0.5 rounds at 2^-24
    result = std::bit_cast<uint32_t>(std::bit_cast<float>(bits) + 0.5f) - 0x3f000000u;
  else  // to nearest, ties to even
    result = (bits + 0xfffu + ((bits >> 13) & 1) - 0x38000000u) >> 13;
  return static_cast<uint16_t>(sign | result);
}
}  // namespace detail

struct half {
  uint16_t bits;

  half() = default;
  half(float value) : bits(detail::float_to_half(value)) {}
  template <std::integral I>
  half(I value) : half(static_cast<float>(value)) {}
  operator float() const { return detail::half_to_float(bits); }

  half operator-() const { return half(-float(*this)); }
  half& operator+=(float other) { return *this = half(float(*this) + other); }
  half& operator-=(float other) { return *this = half(float(*this) - other); }
  half& operator*=(float other) { return *this = half(float(*this) * other); }
  half& operator/=(float other) { return *this = half(float(*this) / other); }
};

// half with half or with an integer is a half; with a float the operands become floats.
template <class T>
concept HalfOrInteger = std::same_as<T, half> || std::integral<T>;
template <class A, class B>
concept HalfPair =
    HalfOrInteger<A> && HalfOrInteger<B> && (std::same_as<A, half> || std::same_as<B, half>);

template <class A, class B>
  requires HalfPair<A, B>
half operator+(A a, B b) {
  return half(float(a) + float(b));
}
template <class A, class B>
  requires HalfPair<A, B>
half operator-(A a, B b) {
  return half(float(a) - float(b));
}
template <class A, class B>
  requires HalfPair<A, B>
half operator*(A a, B b) {
  return half(float(a) * float(b));
}
template <class A, class B>
  requires HalfPair<A, B>
half operator/(A a, B b) {
  return half(float(a) / float(b));
}

}  // namespace metal
