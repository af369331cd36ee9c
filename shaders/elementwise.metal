// Placeholder until the full set arrives (branch shaders).
#include <metal_stdlib>
using namespace metal;
#include "common.h"

/// out = a + b; a, b, out [dim]
/// @elements a dim
/// @elements b dim
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
kernel void residual_add(device const float* a [[buffer(0)]],
                         device const float* b [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant uint& dim [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i < dim) out[i] = a[i] + b[i];
}

/// sum_sq[0] = sum of x[i]^2; x [dim]
/// @elements x dim
/// @elements sum_sq 1
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid threads
kernel void rms_norm_sum_sq(device const float* x [[buffer(0)]],
                            device float* sum_sq [[buffer(1)]],
                            constant uint& dim [[buffer(2)]],
                            uint thread_index [[thread_position_in_threadgroup]],
                            uint threads [[threads_per_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  float sum = 0;
  for (uint i = thread_index; i < dim; i += threads) sum += x[i] * x[i];
  sum = simd_sum(sum);
  if (lane == 0) partial[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = lane < simdgroups ? partial[lane] : 0.0;
  sum = simd_sum(sum);
  if (thread_index == 0) sum_sq[0] = sum;
}
