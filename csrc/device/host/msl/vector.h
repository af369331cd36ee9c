// Metal's vectors of 2, 3 and 4: sizes and alignments of the MSL specification (a vector of 3 is
// padded to 4). Components by name or index; swizzles of several components are not there.
#pragma once
#include <cstdint>
#include <type_traits>

#include "device/host/msl/half.h"

namespace metal {

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;

template <class T, int N>
struct vec;

namespace detail {
template <class T, int N>
struct Components;
template <class T>
struct alignas(2 * sizeof(T)) Components<T, 2> {
  union {
    T at[2];
    struct {
      T x, y;
    };
  };
};
template <class T>
struct alignas(4 * sizeof(T)) Components<T, 3> {
  union {
    T at[3];
    struct {
      T x, y, z;
    };
  };
};
template <class T>
struct alignas(4 * sizeof(T)) Components<T, 4> {
  union {
    T at[4];
    struct {
      T x, y, z, w;
    };
  };
};

template <class T>
inline constexpr int kWidth = 1;
template <class T, int N>
inline constexpr int kWidth<vec<T, N>> = N;
}  // namespace detail

// A component-wise operator and its assignment form; a scalar operand is spread first.
#define MOEFLUX_VECTOR_OPERATOR(op)                                                \
  friend vec operator op(vec a, vec b) {                                           \
    vec result;                                                                    \
    for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(a.at[i] op b.at[i]); \
    return result;                                                                 \
  }                                                                                \
  vec& operator op## = (vec other) {                                               \
    return *this = *this op other;                                                 \
  }
#define MOEFLUX_INTEGER_OPERATOR(op)                                               \
  friend vec operator op(vec a, vec b)                                             \
    requires std::is_integral_v<T>                                                 \
  {                                                                                \
    vec result;                                                                    \
    for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(a.at[i] op b.at[i]); \
    return result;                                                                 \
  }                                                                                \
  vec& operator op## = (vec other)                                                 \
    requires std::is_integral_v<T>                                                 \
  {                                                                                \
    return *this = *this op other;                                                 \
  }
#define MOEFLUX_VECTOR_COMPARISON(op)                              \
  friend vec<bool, N> operator op(vec a, vec b) {                  \
    vec<bool, N> result;                                           \
    for (int i = 0; i < N; ++i) result.at[i] = a.at[i] op b.at[i]; \
    return result;                                                 \
  }

template <class T, int N>
struct vec : detail::Components<T, N> {
  vec() = default;
  vec(T value) {
    for (T& component : this->at) component = value;
  }
  template <class U>
  explicit vec(vec<U, N> other) {
    for (int i = 0; i < N; ++i) this->at[i] = static_cast<T>(other.at[i]);
  }
  // From scalars and shorter vectors one after another.
  template <class First, class... Rest>
    requires(sizeof...(Rest) > 0 && detail::kWidth<First> + (detail::kWidth<Rest> + ...) == N)
  vec(First first, Rest... rest) {
    int filled = 0;
    append(first, filled);
    (append(rest, filled), ...);
  }

  T& operator[](uint i) { return this->at[i]; }
  const T& operator[](uint i) const { return this->at[i]; }
  vec operator-() const { return vec(T(0)) - *this; }

  MOEFLUX_VECTOR_OPERATOR(+)
  MOEFLUX_VECTOR_OPERATOR(-)
  MOEFLUX_VECTOR_OPERATOR(*)
  MOEFLUX_VECTOR_OPERATOR(/)
  MOEFLUX_INTEGER_OPERATOR(%)
  MOEFLUX_INTEGER_OPERATOR(&)
  MOEFLUX_INTEGER_OPERATOR(|)
  MOEFLUX_INTEGER_OPERATOR(^)
  MOEFLUX_INTEGER_OPERATOR(<<)
  MOEFLUX_INTEGER_OPERATOR(>>)
  MOEFLUX_VECTOR_COMPARISON(<)
  MOEFLUX_VECTOR_COMPARISON(>)
  MOEFLUX_VECTOR_COMPARISON(<=)
  MOEFLUX_VECTOR_COMPARISON(>=)
  MOEFLUX_VECTOR_COMPARISON(==)
  MOEFLUX_VECTOR_COMPARISON(!=)

 private:
  template <class U>
  void append(U value, int& filled) {
    this->at[filled++] = static_cast<T>(value);
  }
  template <class U, int M>
  void append(vec<U, M> value, int& filled) {
    for (U component : value.at) append(component, filled);
  }
};
#undef MOEFLUX_VECTOR_OPERATOR
#undef MOEFLUX_INTEGER_OPERATOR
#undef MOEFLUX_VECTOR_COMPARISON

#define MOEFLUX_VECTOR_NAMES(name, T) \
  using name##2 = vec<T, 2>;          \
  using name##3 = vec<T, 3>;          \
  using name##4 = vec<T, 4>;
MOEFLUX_VECTOR_NAMES(float, float)
MOEFLUX_VECTOR_NAMES(half, half)
MOEFLUX_VECTOR_NAMES(int, int)
MOEFLUX_VECTOR_NAMES(uint, uint)
MOEFLUX_VECTOR_NAMES(ulong, ulong)
MOEFLUX_VECTOR_NAMES(short, short)
MOEFLUX_VECTOR_NAMES(ushort, ushort)
MOEFLUX_VECTOR_NAMES(char, signed char)
MOEFLUX_VECTOR_NAMES(uchar, uchar)
MOEFLUX_VECTOR_NAMES(bool, bool)
#undef MOEFLUX_VECTOR_NAMES

}  // namespace metal
