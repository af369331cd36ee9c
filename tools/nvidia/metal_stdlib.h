// <metal_stdlib> for CUDA C++20, compiled by NVRTC with -default-device: what shaders/ may use.
// A SIMD group is a warp. Every thread of it arrives at a SIMD-group function, which the host device
// checks (csrc/device/host): so the mask is always the full one.
#pragma once

#undef INFINITY
#undef NAN
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define FLT_MAX 3.402823466e+38f
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f

namespace metal {

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;

namespace detail {
template <class A, class B>
inline constexpr bool same = false;
template <class A>
inline constexpr bool same<A, A> = true;
template <class T>
inline constexpr bool integral = same<T, bool> || same<T, char> || same<T, signed char> || same<T, uchar> ||
                                 same<T, short> || same<T, ushort> || same<T, int> || same<T, uint> ||
                                 same<T, long> || same<T, ulong>;
}  // namespace detail

// ---- half --------------------------------------------------------------------------------------

struct half {
  ushort bits;

  half() = default;
  half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  template <class I>
    requires detail::integral<I>
  half(I value) : half(static_cast<float>(value)) {}
  operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
  half operator-() const { return half(-float(*this)); }
  half& operator+=(float other) { return *this = half(float(*this) + other); }
  half& operator-=(float other) { return *this = half(float(*this) - other); }
  half& operator*=(float other) { return *this = half(float(*this) * other); }
  half& operator/=(float other) { return *this = half(float(*this) / other); }
};

namespace detail {
template <class A, class B>  // half with half or with an integer is a half
inline constexpr bool halves = (same<A, half> && (same<B, half> || integral<B>)) || (same<B, half> && integral<A>);
template <class T>
inline constexpr bool floating = same<T, float> || same<T, half>;
}  // namespace detail

#define MOEFLUX_HALF(op)                                \
  template <class A, class B>                           \
    requires detail::halves<A, B>                       \
  half operator op(A a, B b) {                          \
    return half(static_cast<float>(a) op static_cast<float>(b)); \
  }
MOEFLUX_HALF(+) MOEFLUX_HALF(-) MOEFLUX_HALF(*) MOEFLUX_HALF(/)
#undef MOEFLUX_HALF

// ---- vectors -----------------------------------------------------------------------------------

template <class T, int N>
struct vec;

namespace detail {
template <class T, int N>
struct Components;
template <class T>
struct alignas(2 * sizeof(T)) Components<T, 2> {
  union { T at[2]; struct { T x, y; }; };
};
template <class T>
struct alignas(4 * sizeof(T)) Components<T, 3> {
  union { T at[3]; struct { T x, y, z; }; };
};
template <class T>
struct alignas(4 * sizeof(T)) Components<T, 4> {
  union { T at[4]; struct { T x, y, z, w; }; };
};
template <int Bytes>
struct Load { using type = ushort; };
template <>
struct Load<4> { using type = uint; };
template <>
struct Load<8> { using type = ::uint2; };
template <>
struct Load<16> { using type = ::uint4; };
template <class T>
inline constexpr int width = 1;
template <class T, int N>
inline constexpr int width<vec<T, N>> = N;
}  // namespace detail

#define MOEFLUX_OPERATOR(op, condition)                                              \
  friend vec operator op(vec a, vec b) requires(condition) {                         \
    vec result;                                                                      \
    for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(a.at[i] op b.at[i]);   \
    return result;                                                                   \
  }                                                                                  \
  vec& operator op##=(vec other) requires(condition) { return *this = *this op other; }
#define MOEFLUX_COMPARISON(op)                                     \
  friend vec<bool, N> operator op(vec a, vec b) {                  \
    vec<bool, N> result;                                           \
    for (int i = 0; i < N; ++i) result.at[i] = a.at[i] op b.at[i]; \
    return result;                                                 \
  }

template <class T, int N>
struct vec : detail::Components<T, N> {
  using Whole = typename detail::Load<sizeof(detail::Components<T, N>)>::type;

  vec() = default;
  vec(const vec& other) { copy(other); }  // one load of the whole, not one of each component
  vec& operator=(const vec& other) {
    copy(other);
    return *this;
  }
  vec(T value) {
    for (int i = 0; i < N; ++i) this->at[i] = value;
  }
  template <class U>
  explicit vec(vec<U, N> other) {
    for (int i = 0; i < N; ++i) this->at[i] = static_cast<T>(other.at[i]);
  }
  // From scalars and shorter vectors one after another.
  template <class First, class... Rest>
    requires(sizeof...(Rest) > 0 && detail::width<First> + (detail::width<Rest> + ...) == N)
  vec(First first, Rest... rest) {
    int filled = 0;
    append(first, filled);
    (append(rest, filled), ...);
  }

  T& operator[](uint i) { return this->at[i]; }
  const T& operator[](uint i) const { return this->at[i]; }
  vec operator-() const {
    vec result;
    for (int i = 0; i < N; ++i) result.at[i] = -this->at[i];
    return result;
  }

  MOEFLUX_OPERATOR(+, true)
  MOEFLUX_OPERATOR(-, true)
  MOEFLUX_OPERATOR(*, true)
  MOEFLUX_OPERATOR(/, true)
  MOEFLUX_OPERATOR(%, detail::integral<T>)
  MOEFLUX_OPERATOR(&, detail::integral<T>)
  MOEFLUX_OPERATOR(|, detail::integral<T>)
  MOEFLUX_OPERATOR(^, detail::integral<T>)
  MOEFLUX_OPERATOR(<<, detail::integral<T>)
  MOEFLUX_OPERATOR(>>, detail::integral<T>)
  MOEFLUX_COMPARISON(<)
  MOEFLUX_COMPARISON(>)
  MOEFLUX_COMPARISON(<=)
  MOEFLUX_COMPARISON(>=)
  MOEFLUX_COMPARISON(==)
  MOEFLUX_COMPARISON(!=)

 private:
  void copy(const vec& other) {
    if constexpr (sizeof(Whole) == sizeof(vec)) {
      *reinterpret_cast<Whole*>(this) = *reinterpret_cast<const Whole*>(&other);
    } else {
      for (int i = 0; i < N; ++i) this->at[i] = other.at[i];
    }
  }
  template <class U>
  void append(U value, int& filled) {
    this->at[filled++] = static_cast<T>(value);
  }
  template <class U, int M>
  void append(vec<U, M> value, int& filled) {
    for (int i = 0; i < M; ++i) append(value.at[i], filled);
  }
};
#undef MOEFLUX_OPERATOR
#undef MOEFLUX_COMPARISON

#define MOEFLUX_NAMES(name, T) \
  using name##2 = vec<T, 2>;   \
  using name##3 = vec<T, 3>;   \
  using name##4 = vec<T, 4>;
MOEFLUX_NAMES(float, float)
MOEFLUX_NAMES(half, half)
MOEFLUX_NAMES(int, int)
MOEFLUX_NAMES(uint, uint)
MOEFLUX_NAMES(short, short)
MOEFLUX_NAMES(ushort, ushort)
MOEFLUX_NAMES(char, signed char)
MOEFLUX_NAMES(uchar, uchar)
MOEFLUX_NAMES(bool, bool)
MOEFLUX_NAMES(ulong, ulong)
#undef MOEFLUX_NAMES

// ---- arithmetic --------------------------------------------------------------------------------

// A function of floats, spread over halves and vectors.
#define MOEFLUX_SPREAD(name, parameters, each, floats, expression) \
  template <class T>                                               \
    requires detail::floating<T>                                   \
  T name(MOEFLUX_##parameters(T)) {                                \
    const float floats;                                            \
    return T(expression);                                          \
  }                                                                \
  template <class T, int N>                                        \
    requires detail::floating<T>                                   \
  vec<T, N> name(MOEFLUX_##parameters(vec<T MOEFLUX_COMMA N>)) {   \
    vec<T, N> result;                                              \
    for (int i = 0; i < N; ++i) result.at[i] = name each;          \
    return result;                                                 \
  }
#define MOEFLUX_COMMA ,
#define MOEFLUX_ONE(...) __VA_ARGS__ a
#define MOEFLUX_TWO(...) __VA_ARGS__ a, __VA_ARGS__ b
#define MOEFLUX_THREE(...) __VA_ARGS__ a, __VA_ARGS__ b, __VA_ARGS__ c
#define MOEFLUX_UNARY(name, expression) MOEFLUX_SPREAD(name, ONE, (a.at[i]), x = a, expression)
#define MOEFLUX_BINARY(name, expression) \
  MOEFLUX_SPREAD(name, TWO, (a.at[i], b.at[i]), x = a MOEFLUX_COMMA y = b, expression)
#define MOEFLUX_FUNCTIONS      \
  MOEFLUX_UNARY(exp, ::expf(x))     \
  MOEFLUX_UNARY(log, ::logf(x))     \
  MOEFLUX_UNARY(rsqrt, ::rsqrtf(x)) \
  MOEFLUX_UNARY(sin, ::sinf(x))     \
  MOEFLUX_UNARY(cos, ::cosf(x))

MOEFLUX_FUNCTIONS
namespace precise {
MOEFLUX_FUNCTIONS
}
namespace fast {
MOEFLUX_FUNCTIONS
}
MOEFLUX_UNARY(fabs, ::fabsf(x))
MOEFLUX_BINARY(fmin, ::fminf(x, y))
MOEFLUX_BINARY(fmax, ::fmaxf(x, y))
MOEFLUX_SPREAD(fma, THREE, (a.at[i], b.at[i], c.at[i]), x = a MOEFLUX_COMMA y = b MOEFLUX_COMMA z = c, ::fmaf(x, y, z))
#undef MOEFLUX_FUNCTIONS

template <class T>
T min(T a, T b) {
  if constexpr (detail::floating<T>)
    return fmin(a, b);
  else
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  if constexpr (detail::floating<T>)
    return fmax(a, b);
  else
    return a < b ? b : a;
}
template <class T, int N>
vec<T, N> min(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a.at[i] = min(a.at[i], b.at[i]);
  return a;
}
template <class T, int N>
vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a.at[i] = max(a.at[i], b.at[i]);
  return a;
}
template <class T, int N>
T dot(vec<T, N> a, vec<T, N> b) {
  T sum = a.at[0] * b.at[0];
  for (int i = 1; i < N; ++i) sum += a.at[i] * b.at[i];
  return sum;
}
inline bool isnan(float x) {
  return x != x;
}
template <class To, class From>
To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// ---- barriers and SIMD groups ------------------------------------------------------------------

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}
inline void threadgroup_barrier(mem_flags) {
  __syncthreads();
}
inline void simdgroup_barrier(mem_flags) {
  __syncwarp();
}

namespace detail {
inline constexpr uint kAll = 0xffffffffu;
inline uint lane() {
  uint lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
template <class T>
T sent(T value, uint from) {
  union { T value; uint words[(sizeof(T) + 3) / 4]; } all;
  all.words[0] = 0;
  memcpy(&all, &value, sizeof(T));
  for (uint& word : all.words) word = __shfl_sync(kAll, word, from);
  memcpy(&value, &all, sizeof(T));
  return value;
}
template <class T, class Operation>
T reduce(T value, Operation of) {
  const uint lanes = blockDim.x - threadIdx.x / 32 * 32;  // 32 or more, but in a last SIMD group
  if (lanes >= 32) {
#pragma unroll
    for (uint distance = 16; distance > 0; distance /= 2) value = of(value, sent(value, lane() ^ distance));
    return value;
  }
  for (uint distance = 16; distance > 0; distance /= 2) {
    const T other = sent(value, lane() + distance);
    if (lane() + distance < lanes) value = of(value, other);
  }
  return sent(value, 0);
}
}  // namespace detail

template <class T>
T simd_shuffle(T value, ushort from) { return detail::sent(value, from); }
template <class T>
T simd_broadcast(T value, ushort from) { return detail::sent(value, from); }
template <class T>
T simd_shuffle_xor(T value, ushort mask) { return detail::sent(value, detail::lane() ^ mask); }
template <class T>
T simd_shuffle_down(T value, ushort delta) { return detail::sent(value, detail::lane() + delta); }
template <class T>
T simd_shuffle_up(T value, ushort delta) { return detail::sent(value, detail::lane() - delta); }
template <class T>
T simd_sum(T value) { return detail::reduce(value, [](T a, T b) { return T(a + b); }); }
template <class T>
T simd_max(T value) { return detail::reduce(value, [](T a, T b) { return metal::max(a, b); }); }
template <class T>
T simd_min(T value) { return detail::reduce(value, [](T a, T b) { return metal::min(a, b); }); }
template <class T>
T simd_prefix_inclusive_sum(T value) {
#pragma unroll
  for (uint distance = 1; distance < 32; distance *= 2) {
    const T before = detail::sent(value, detail::lane() - distance);
    if (detail::lane() >= distance) value = T(value + before);
  }
  return value;
}
template <class T>
T simd_prefix_exclusive_sum(T value) {
  const T before = simd_shuffle_up(simd_prefix_inclusive_sum(value), 1);
  return detail::lane() == 0 ? T(0) : before;
}
inline bool simd_any(bool value) { return __any_sync(detail::kAll, value); }
inline bool simd_all(bool value) { return __all_sync(detail::kAll, value); }

}  // namespace metal
