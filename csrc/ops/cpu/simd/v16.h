// Vectors of 16 floats whatever the machine (compiler vector extensions), so that every instruction
// set sums in the same order. Included once by each kernels.inc, inside an unnamed namespace
// of its own: nothing here may be shared between translation units of different instruction sets,
// and no standard header with inline code is used, lest the linker pick an AVX-512 copy of it for
// everybody. Needs fma() of simd/isa_<isa>.h, which is included first.
#pragma once
#include <stdint.h>
#include <string.h>

#include "base/format.h"

#ifdef MOEFLUX_PAIRS
#include "ops/cpu/simd/pair_parts.h"
#else
#include "ops/cpu/simd/native_parts.h"
#endif

namespace moeflux::ops::cpu {
namespace {

ALWAYS_INLINE v16 larger(const v16& a, const v16& b) {  // b where they do not compare
  return choose(a, b, a, b, [](auto p, auto q) ALWAYS_INLINE_LAMBDA { return p > q; });
}
ALWAYS_INLINE v16 smaller(const v16& a, const v16& b) {
  return choose(a, b, a, b, [](auto p, auto q) ALWAYS_INLINE_LAMBDA { return p < q; });
}
// A tree: i + (i + 8), then 4, 2, 1 apart.
ALWAYS_INLINE float sum(const v16& v) {
  typedef float v4 __attribute__((vector_size(16)));
  const v8 a = low_half(v) + high_half(v);
  const v4 b =
      __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
ALWAYS_INLINE v16 load_partial(const float* p, uint32_t n) {  // zeros behind n < 16
  float padded[16] = {};
  memcpy(padded, p, n * sizeof(float));
  return load(padded);
}
ALWAYS_INLINE v16 load_upto(const float* p, uint32_t left) {
  return left >= 16 ? load(p) : load_partial(p, left);
}

// exp by range reduction to [-ln2/2, ln2/2] and Cephes' degree-5 polynomial (2 ulp); the argument
// is clamped to the range of normal floats, so nothing overflows.
ALWAYS_INLINE v16 exp(v16 x) {
  const v16 low = broadcast(-87.3365f), high = broadcast(88.3762f);
  x = choose(x, low, low, x, [](auto a, auto b) ALWAYS_INLINE_LAMBDA { return a < b; });
  x = choose(x, high, high, x, [](auto a, auto b) ALWAYS_INLINE_LAMBDA { return a > b; });
  const v16 magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const v16 n = (x * 1.44269504088896341f + magic) - magic;
  const v16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  v16 p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const i16 exponent = (to_int(n) + 127) << 23;
  v16 scale;
  memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

// Applies f to 16 elements at a time, the last ones through a padded copy.
template <class F>
ALWAYS_INLINE void map(const float* x, float* out, uint32_t n, F f) {
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, f(load(x + i), i));
  if (i == n) return;
  float padded[16] = {};
  memcpy(padded, x + i, (n - i) * sizeof(float));
  store(padded, f(load(padded), i));
  memcpy(out + i, padded, (n - i) * sizeof(float));
}

ALWAYS_INLINE float dot(const float* a, const float* b, uint32_t n) {
  v16 acc = {};
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) acc = fma(load(a + i), load(b + i), acc);
  if (i < n) acc = fma(load_partial(a + i, n - i), load_partial(b + i, n - i), acc);
  return sum(acc);
}
ALWAYS_INLINE float rsqrt(float x) {
  return 1.0f / __builtin_sqrtf(x);
}

// ---- stored numbers ---------------------------------------------------------------------------

ALWAYS_INLINE v16 from_bits(u32x16 bits) {
  v16 v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
ALWAYS_INLINE v16 widen_bf16(u16x16 half) {
  return from_bits(to_words(half) << 16);
}
// 2^112 moves the exponent from half's bias to float's, subnormals included, exactly; half's
// infinities and NaN, which no checked weight holds, keep their kind.
ALWAYS_INLINE v16 widen_f16(u16x16 half) {
  const u32x16 word = to_words(half);
  const u32x16 rest = word & 0x7fff, sign = (word & 0x8000) << 16;
  const v16 finite = from_bits(rest << 13) * 0x1p112f;
  u32x16 bits;
  memcpy(&bits, &finite, sizeof bits);
  bits = pick(rest >= 0x7c00, rest << 13 | 0x7f800000, bits);
  return from_bits(bits | sign);
}
// The same of finite numbers, as checked weights are.
ALWAYS_INLINE v16 widen_finite_f16(u16x16 half) {
  const i16 bits = as_ints(to_words(half) << 16) >> 3 & static_cast<int32_t>(0x8fffffff);
  v16 v;
  memcpy(&v, &bits, sizeof v);
  return v * 0x1p112f;
}
template <quant::DType dtype>
ALWAYS_INLINE v16 load_as(const std::byte* p) {  // 16 numbers, as f32
  if constexpr (dtype == quant::DType::f32) {
    return load(reinterpret_cast<const float*>(p));
  } else {
    u16x16 half;
    memcpy(&half, p, sizeof half);
    return dtype == quant::DType::bf16 ? widen_bf16(half) : widen_f16(half);
  }
}
template <quant::DType dtype>
ALWAYS_INLINE v16 load_as_upto(const std::byte* p, uint32_t left) {  // zeros behind `left`
  if (left >= 16) return load_as<dtype>(p);
  std::byte padded[64] = {};
  memcpy(padded, p, left * quant::dtype_bytes(dtype));
  return load_as<dtype>(padded);
}
template <quant::DType dtype>
ALWAYS_INLINE v16 load_weights(const std::byte* p) {  // 16 numbers, which are finite
  if constexpr (dtype != quant::DType::f16) return load_as<dtype>(p);
  u16x16 half;
  memcpy(&half, p, sizeof half);
  return widen_finite_f16(half);
}
// The same, of which none behind `end` is touched; zeros there.
template <quant::DType dtype>
ALWAYS_INLINE v16 load_weights_before(const std::byte* p, const std::byte* end) {
  constexpr uint64_t width = quant::dtype_bytes(dtype);
  if (end - p >= static_cast<int64_t>(16 * width)) return load_weights<dtype>(p);
  alignas(64) std::byte padded[64] = {};
  memcpy(padded, p, end - p);
  return load_weights<dtype>(padded);
}
// To the nearest bf16, ties to even, in the upper half of each word. NaN stays NaN.
ALWAYS_INLINE u32x16 round_bf16(v16 v) {
  u32x16 bits;
  memcpy(&bits, &v, sizeof bits);
  const u32x16 rounded = bits + 0x7fff + (bits >> 16 & 1);
  bits = pick((bits & 0x7fffffff) > 0x7f800000, bits | 0x400000, rounded);
  return bits & 0xffff0000;
}

}  // namespace
}  // namespace moeflux::ops::cpu
