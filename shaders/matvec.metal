// out = W x (+ bias) for matrices that are not quantised: one activation row, f32.
#include "common.h"

// w . x in all lanes of a SIMD group, which read side by side; four sums in flight.
template <typename T>
inline float row_dot(device const T* w, device const float* x, uint n, uint lane) {
  float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
  uint i = lane;
  for (; i + 96 < n; i += 128)
    sum = fma(float4(to_f32(w[i]), to_f32(w[i + 32]), to_f32(w[i + 64]), to_f32(w[i + 96])),
              float4(x[i], x[i + 32], x[i + 64], x[i + 96]), sum);
  for (; i < n; i += 32) sum.x = fma(to_f32(w[i]), x[i], sum.x);
  return simd_sum(sum4(sum));
}

// out = W x + bias; W (out_dim, in_dim), x (in_dim), bias (out_dim) where has_bias, out (out_dim).
// A SIMD group per row.
/// @elements W out_dim * in_dim
/// @elements x in_dim
/// @elements bias has_bias * out_dim
/// @elements out out_dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid out_dim * 32
/// @require has_bias <= 1
/// @require grid / 32 >= out_dim
template <typename T>
kernel void matvec(device const T* W [[buffer(0)]],
                   device const float* x [[buffer(1)]],
                   device const float* bias [[buffer(2)]],
                   device float* out [[buffer(3)]],
                   constant uint& out_dim [[buffer(4)]],
                   constant uint& in_dim [[buffer(5)]],
                   constant uint& has_bias [[buffer(6)]],
                   uint i [[thread_position_in_grid]],
                   uint lane [[thread_index_in_simdgroup]]) {
  const uint row = i / kSimdWidth;
  if (row >= out_dim) return;  // the whole SIMD group
  const float dot = row_dot(W + ulong(row) * in_dim, x, in_dim, lane);
  if (lane == 0) out[row] = dot + (has_bias != 0 ? bias[row] : 0.0f);
}

template [[host_name("matvec_bf16_f32")]] kernel decltype(matvec<bf16>) matvec<bf16>;
template [[host_name("matvec_f16_f32")]] kernel decltype(matvec<half>) matvec<half>;
template [[host_name("matvec_f32_f32")]] kernel decltype(matvec<float>) matvec<float>;
