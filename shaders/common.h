// What kernels of every family share: bf16 by bit pattern, sums over a threadgroup, activations
// that cannot overflow. Needs metal_stdlib only (MSL 2.4) and safe math; a SIMD group is 32 wide.
#pragma once
#include <metal_stdlib>
using namespace metal;

typedef ushort bf16;  // the upper 16 bits of a float

inline float to_f32(bf16 bits) {
  return as_type<float>(uint(bits) << 16);
}
inline float to_f32(half value) {
  return float(value);
}
inline float to_f32(float value) {
  return value;
}

inline float sum4(float4 v) {
  return (v.x + v.y) + (v.z + v.w);
}

constant constexpr uint kSimdWidth = 32;
constant constexpr uint kMaxSimdgroups = 32;  // of a threadgroup: 1024 threads

// Hands every SIMD group's value round: lane i gets that of SIMD group i, lanes behind the last one
// get `none`. `value` is the same in all lanes of a SIMD group; scratch has kMaxSimdgroups elements
// and may be used again at once. To be called by all threads, whole SIMD groups.
template <typename T>
inline T of_simdgroups(
    T value, T none, threadgroup T* scratch, uint lane, uint simdgroup, uint simdgroups) {
  threadgroup_barrier(mem_flags::mem_threadgroup);  // an earlier result may still be read
  if (lane == 0) scratch[simdgroup] = value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return lane < simdgroups ? scratch[lane] : none;
}

// Sum of `value` over the threadgroup, in every thread; scratch as above.
inline float threadgroup_sum(
    float value, threadgroup float* scratch, uint lane, uint simdgroup, uint simdgroups) {
  return simd_sum(of_simdgroups(simd_sum(value), 0.0f, scratch, lane, simdgroup, simdgroups));
}

// The same for two sums at once.
inline float2 threadgroup_sum(
    float2 value, threadgroup float2* scratch, uint lane, uint simdgroup, uint simdgroups) {
  const float2 own = float2(simd_sum(value.x), simd_sum(value.y));
  const float2 all = of_simdgroups(own, float2(0.0f, 0.0f), scratch, lane, simdgroup, simdgroups);
  return float2(simd_sum(all.x), simd_sum(all.y));
}

// Maximum over the threadgroup, in every thread; scratch as above.
inline float threadgroup_max(
    float value, threadgroup float* scratch, uint lane, uint simdgroup, uint simdgroups) {
  const float none = -INFINITY;
  return simd_max(of_simdgroups(simd_max(value), none, scratch, lane, simdgroup, simdgroups));
}

// 1 / (1 + exp(-x)); the exponent is never positive, so exp cannot overflow.
inline float sigmoid(float x) {
  const float e = precise::exp(-fabs(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

inline float silu(float x) {
  return x * sigmoid(x);
}

// log(1 + e) for e in [0, 1], accurate where 1 + e rounds: log(u) / (u - 1) varies slowly, so the
// rounding of u cancels (Kahan). Wants u - 1 evaluated as written: safe math.
inline float log1p_unit(float e) {
  const float u = 1.0f + e;
  return u == 1.0f ? e : precise::log(u) * (e / (u - 1.0f));
}

// log(1 + exp(x)) without overflow.
inline float softplus(float x) {
  return max(x, 0.0f) + log1p_unit(precise::exp(-fabs(x)));
}
