// Vectors of 16 numbers as two registers, for machines whose registers hold eight. The compiler's
// own vectors of 64 bytes would do, but GCC 12 keeps those in memory where registers are narrower,
// and moves them by way of general registers. Included by simd/base.h in place of those.
#pragma once
#include <stdint.h>
#include <string.h>

namespace moeflux::ops::cpu {
namespace {

typedef float float_lanes __attribute__((vector_size(32)));
typedef int32_t int_lanes __attribute__((vector_size(32)));
typedef uint32_t word_lanes __attribute__((vector_size(32)));

template <class Lanes, class Number>
struct Pair {
  Lanes low, high;
  ALWAYS_INLINE Number operator[](int i) const { return i < 8 ? low[i] : high[i - 8]; }
  ALWAYS_INLINE Pair operator-() const { return {-low, -high}; }
};
using v16 = Pair<float_lanes, float>;
using i16 = Pair<int_lanes, int32_t>;
using u32x16 = Pair<word_lanes, uint32_t>;

#define PAIR_OPERATOR(op)                                                                 \
  template <class Lanes, class Number>                                                    \
  ALWAYS_INLINE Pair<Lanes, Number> operator op(const Pair<Lanes, Number>& a,             \
                                                const Pair<Lanes, Number>& b) {           \
    return {a.low op b.low, a.high op b.high};                                            \
  }                                                                                       \
  template <class Lanes, class Number, class Scalar>                                      \
  ALWAYS_INLINE Pair<Lanes, Number> operator op(const Pair<Lanes, Number>& a, Scalar b) { \
    return {a.low op static_cast<Number>(b), a.high op static_cast<Number>(b)};           \
  }                                                                                       \
  template <class Lanes, class Number>                                                    \
  ALWAYS_INLINE Pair<Lanes, Number>& operator op## =                                      \
      (Pair<Lanes, Number> & a, const Pair<Lanes, Number>& b) {                           \
    return a = {a.low op b.low, a.high op b.high};                                        \
  }
#define PAIR_COMPARISON(op)                                                     \
  template <class Lanes, class Number, class Scalar>                            \
  ALWAYS_INLINE i16 operator op(const Pair<Lanes, Number>& a, Scalar b) {       \
    return {a.low op static_cast<Number>(b), a.high op static_cast<Number>(b)}; \
  }
PAIR_OPERATOR(+)
PAIR_OPERATOR(-)
PAIR_OPERATOR(*)
PAIR_OPERATOR(/)
PAIR_OPERATOR(&)
PAIR_OPERATOR(|)
PAIR_OPERATOR(<<)
PAIR_OPERATOR(>>)
PAIR_COMPARISON(>)
PAIR_COMPARISON(>=)
PAIR_COMPARISON(<=)
#undef PAIR_OPERATOR
#undef PAIR_COMPARISON

}  // namespace
}  // namespace moeflux::ops::cpu
