// Metal's arithmetic functions on float, half and their vectors. The default, precise:: and fast::
// forms are the same here: libm's. A call that mixes types does not compile, as with Metal.
#pragma once
#include <concepts>
#include <cstring>

#include "device/host/msl/vector.h"

#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
#undef INFINITY  // a standard header may have come first
#undef NAN
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__

namespace metal {

template <class T>
concept Floating = std::same_as<T, float> || std::same_as<T, half>;
template <class T>
concept Number = Floating<T> || (std::integral<T> && !std::same_as<T, bool>);

// A function of one to three floats, spread over halves and vectors.
#define MOEFLUX_UNARY(name, expression)                        \
  template <Floating T>                                        \
  T name(T value) {                                            \
    const float x = value;                                     \
    return T(expression);                                      \
  }                                                            \
  template <Floating T, int N>                                 \
  vec<T, N> name(vec<T, N> value) {                            \
    for (T& component : value.at) component = name(component); \
    return value;                                              \
  }
#define MOEFLUX_BINARY(name, expression)                                       \
  template <Floating T>                                                        \
  T name(T first, T second) {                                                  \
    const float x = first, y = second;                                         \
    return T(expression);                                                      \
  }                                                                            \
  template <Floating T, int N>                                                 \
  vec<T, N> name(vec<T, N> first, vec<T, N> second) {                          \
    for (int i = 0; i < N; ++i) first.at[i] = name(first.at[i], second.at[i]); \
    return first;                                                              \
  }
#define MOEFLUX_TERNARY(name, expression)                                                   \
  template <Floating T>                                                                     \
  T name(T first, T second, T third) {                                                      \
    const float x = first, y = second, z = third;                                           \
    return T(expression);                                                                   \
  }                                                                                         \
  template <Floating T, int N>                                                              \
  vec<T, N> name(vec<T, N> first, vec<T, N> second, vec<T, N> third) {                      \
    for (int i = 0; i < N; ++i) first.at[i] = name(first.at[i], second.at[i], third.at[i]); \
    return first;                                                                           \
  }
#define MOEFLUX_FUNCTIONS                         \
  MOEFLUX_UNARY(exp, __builtin_expf(x))           \
  MOEFLUX_UNARY(log, __builtin_logf(x))           \
  MOEFLUX_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x)) \
  MOEFLUX_UNARY(sin, __builtin_sinf(x))           \
  MOEFLUX_UNARY(cos, __builtin_cosf(x))

MOEFLUX_FUNCTIONS
namespace precise {
MOEFLUX_FUNCTIONS
}
namespace fast {
MOEFLUX_FUNCTIONS
}
MOEFLUX_UNARY(fabs, __builtin_fabsf(x))
MOEFLUX_BINARY(fmin, __builtin_fminf(x, y))
MOEFLUX_BINARY(fmax, __builtin_fmaxf(x, y))
MOEFLUX_TERNARY(fma, __builtin_fmaf(x, y, z))
#undef MOEFLUX_FUNCTIONS
#undef MOEFLUX_UNARY
#undef MOEFLUX_BINARY
#undef MOEFLUX_TERNARY

template <Number T>
T min(T a, T b) {
  if constexpr (Floating<T>)
    return fmin(a, b);
  else
    return b < a ? b : a;
}
template <Number T>
T max(T a, T b) {
  if constexpr (Floating<T>)
    return fmax(a, b);
  else
    return a < b ? b : a;
}
template <Number T, int N>
vec<T, N> min(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a.at[i] = min(a.at[i], b.at[i]);
  return a;
}
template <Number T, int N>
vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a.at[i] = max(a.at[i], b.at[i]);
  return a;
}
template <Floating T, int N>
T dot(vec<T, N> a, vec<T, N> b) {
  T sum = a.at[0] * b.at[0];
  for (int i = 1; i < N; ++i) sum += a.at[i] * b.at[i];
  return sum;
}
inline bool isnan(float x) {
  return __builtin_isnan(x);
}

template <class To, class From>
To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace metal
