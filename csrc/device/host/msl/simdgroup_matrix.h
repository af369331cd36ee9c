// simdgroup_float8x8: a matrix whose elements the lanes of a SIMD group share out, two each. Which
// lane has which is Metal's own affair; here lane i has elements 2 i and 2 i + 1, row by row.
// Sums go over the columns in ascending order by fma; Metal does not say in which order its are.
#pragma once
#include "device/host/kernel.h"
#include "device/host/msl/math.h"

#define MOEFLUX_MATRICES 1  // shaders may ask

namespace metal {

namespace host = moeflux::device::host;

struct simdgroup_float8x8 {
  float at[2];
};

template <class T, int columns, int rows>
simdgroup_float8x8 make_filled_simdgroup_matrix(T value) {
  static_assert(columns == 8 && rows == 8);
  return {value, value};
}

namespace detail {
struct Multiplied {
  simdgroup_float8x8 a, b, c;
};
__attribute__((no_sanitize("thread"))) inline void multiply(const host::Exchange& exchange) {
  const auto of = [&](uint32_t lane) -> const Multiplied& {
    return *static_cast<const Multiplied*>(exchange.in[lane]);
  };
  for (uint32_t i = 0; i < 64; ++i) {
    const uint32_t row = i / 8, column = i % 8;
    float sum = of(i / 2).c.at[i % 2];
    for (uint32_t k = 0; k < 8; ++k) {
      const uint32_t a = row * 8 + k, b = k * 8 + column;
      sum = __builtin_fmaf(of(a / 2).a.at[a % 2], of(b / 2).b.at[b % 2], sum);
    }
    static_cast<simdgroup_float8x8*>(exchange.out[i / 2])->at[i % 2] = sum;
  }
}
}  // namespace detail

// Of whole SIMD groups, in uniform control flow, as all of these.
inline void simdgroup_load(simdgroup_float8x8& to, const float* from, ulong elements_per_row,
                           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const uint32_t i = 2 * host::lane({file, line});
  for (uint32_t e = 0; e < 2; ++e) to.at[e] = from[i / 8 * elements_per_row + i % 8 + e];
}
inline void simdgroup_store(const simdgroup_float8x8& from, float* to, ulong elements_per_row,
                            const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const uint32_t i = 2 * host::lane({file, line});
  for (uint32_t e = 0; e < 2; ++e) to[i / 8 * elements_per_row + i % 8 + e] = from.at[e];
}
inline void simdgroup_multiply_accumulate(simdgroup_float8x8& d, const simdgroup_float8x8& a,
                                          const simdgroup_float8x8& b, const simdgroup_float8x8& c,
                                          const char* file = __builtin_FILE(),
                                          int line = __builtin_LINE()) {
  const detail::Multiplied in{a, b, c};
  host::collective(&detail::multiply, &in, &d, {file, line});
}

}  // namespace metal
