// Kernels that are wrong, one way each: every check of the host device must fire (CMakeLists.txt
// says which). All take x [n], out [n] and run as one threadgroup of n = 64 threads, if not said
// otherwise.
#include <metal_stdlib>
using namespace metal;

// One element past the end of x.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void read_past_end(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                          constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i] = x[i] + x[i + 1];
}

// Far past the end: beyond any red zone.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void read_far(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                     constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i] = x[i * 1024];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void write_before_start(device const float* x [[buffer(0)]],
                               device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                               uint i [[thread_position_in_grid]]) {
  out[int(i) - 1] = x[i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void write_past_end(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                           constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i + 1] = x[i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void threadgroup_overrun(device const float* x [[buffer(0)]],
                                device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                                uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[64];
  threadgroup float b[64];
  b[i] = 1.0f;
  a[i + 1] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = a[i] + b[i];
}

// A barrier that 40 of the 64 threads reach.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void barrier_in_branch(device const float* x [[buffer(0)]],
                              device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                              uint i [[thread_position_in_threadgroup]]) {
  if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = x[i];
}

// Two barriers, half of the threads at each.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void two_barriers(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                         constant uint& n [[buffer(2)]],
                         uint i [[thread_position_in_threadgroup]]) {
  if (i < 32)
    threadgroup_barrier(mem_flags::mem_threadgroup);
  else
    threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = x[i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void return_before_barrier(device const float* x [[buffer(0)]],
                                  device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                                  uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[64];
  if (i >= 32) return;
  a[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = a[31 - i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void simd_in_branch(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                           constant uint& n [[buffer(2)]],
                           uint i [[thread_position_in_threadgroup]]) {
  float sum = 0.0f;
  if (i % 32 < 8) sum = simd_sum(x[i]);
  out[i] = sum;
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void simd_at_two_places(device const float* x [[buffer(0)]],
                               device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                               uint i [[thread_position_in_threadgroup]]) {
  if (i % 32 < 8)
    out[i] = simd_sum(x[i]);
  else
    out[i] = simd_sum(x[i]);
}

// A different SIMD-group function in the same line.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void simd_two_functions(device const float* x [[buffer(0)]],
                               device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                               uint i [[thread_position_in_threadgroup]]) {
  out[i] = i % 32 < 8 ? simd_sum(x[i]) : simd_max(x[i]);
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void missing_barrier(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                            constant uint& n [[buffer(2)]],
                            uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[64];
  a[i] = x[i];
  out[i] = a[63 - i];
}

// Lanes meet at simd_sum, but that orders no memory.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void race_in_simdgroup(device const float* x [[buffer(0)]],
                              device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                              uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[64];
  a[i] = x[i];
  const float sum = simd_sum(1.0f);
  out[i] = a[i ^ 1] * sum;
}

// A slot is written again while another SIMD group may still read it.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void race_on_reuse(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                          constant uint& n [[buffer(2)]],
                          uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[2];
  if (i == 0) a[0] = x[0];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float first = a[0];
  const float sum = simd_sum(x[i]);
  if (i % 32 == 0) a[i / 32] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = first + a[0] + a[1];
}

// Two threads write one element.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void race_in_device_memory(device const float* x [[buffer(0)]],
                                  device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                                  uint i [[thread_position_in_grid]]) {
  out[i & 31] = x[i];
}

// Two threadgroups write one element: runs as threadgroups of 32.
/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void race_between_threadgroups(device const float* x [[buffer(0)]],
                                      device float* out [[buffer(1)]],
                                      constant uint& n [[buffer(2)]],
                                      uint i [[thread_position_in_grid]]) {
  out[i] = x[i];
  if (i % 32 == 0) out[32] = x[i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void uninitialised_threadgroup(device const float* x [[buffer(0)]],
                                      device float* out [[buffer(1)]],
                                      constant uint& n [[buffer(2)]],
                                      uint i [[thread_position_in_threadgroup]]) {
  threadgroup float a[64];
  if (i < 40) a[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0.0f;
  for (uint k = 0; k < 64; ++k) sum += a[k];
  out[i] = sum;
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void last_not_written(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                             constant uint& n [[buffer(2)]],
                             uint i [[thread_position_in_grid]]) {
  if (i + 1 < n) out[i] = x[i];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void misaligned_vector(device const float* x [[buffer(0)]],
                              device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                              uint i [[thread_position_in_grid]]) {
  const float4 v = *(device const float4*)(x + 1 + i % 32);
  out[i] = v.x + v.w;
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void shift_too_far(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                          constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i] = x[i] + float(1u << i);
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void thread_array_overrun(device const float* x [[buffer(0)]],
                                 device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                                 uint i [[thread_position_in_grid]]) {
  float r[4];
  for (uint k = 0; k < 4; ++k) r[k] = x[i];
  out[i] = r[(i & 3) + n / 64];
}

/// @elements x n
/// @elements out n
/// @threadgroup any
kernel void divide_by_zero(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                           constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i] = x[n / (n - 64)];
}

// Nothing is wrong with this one: no check may fire.
/// @elements x n
/// @elements out n
/// @threadgroup multiple of 32
kernel void sound(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                  constant uint& n [[buffer(2)]], uint i [[thread_position_in_threadgroup]],
                  uint lane [[thread_index_in_simdgroup]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                  uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float a[64];
  threadgroup float sums[32];
  a[i] = x[i];
  float sum = simd_sum(x[i]);
  if (lane == 0) sums[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = simd_sum(lane < simdgroups ? sums[lane] : 0.0f);
  out[i] = a[n - 1 - i] + sum;
}
