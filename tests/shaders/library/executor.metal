// Small kernels that show what the executor does; test_executor.cpp holds them to plain loops.
#include <metal_stdlib>
using namespace metal;

/// @default 3
constant uint first_constant [[function_constant(4)]];
/// @default 5
constant uint second_constant [[function_constant(1)]];

// out [x, y, z]: every built-in of a thread, 20 values a thread.
/// @elements out grid * 20
/// @threadgroup any
kernel void positions(device uint* out [[buffer(0)]], uint3 in_grid [[thread_position_in_grid]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint3 in_group [[thread_position_in_threadgroup]],
                      uint3 threads [[threads_per_threadgroup]],
                      uint3 groups [[threadgroups_per_grid]], uint3 grid [[threads_per_grid]],
                      uint index [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]],
                      uint simdgroups [[simdgroups_per_threadgroup]]) {
  device uint* o = out + 20ul * ((ulong(in_grid.z) * grid.y + in_grid.y) * grid.x + in_grid.x);
  o[0] = in_grid.x;
  o[1] = in_grid.y;
  o[2] = in_grid.z;
  o[3] = group.x;
  o[4] = group.y;
  o[5] = group.z;
  o[6] = in_group.x;
  o[7] = in_group.y;
  o[8] = in_group.z;
  o[9] = threads.x;
  o[10] = threads.y;
  o[11] = threads.z;
  o[12] = groups.x;
  o[13] = groups.y;
  o[14] = groups.z;
  o[15] = grid.x;
  o[16] = index;
  o[17] = lane;
  o[18] = simdgroup;
  o[19] = simdgroups;
}

// out [threads]: rotated through threadgroup memory `rounds` times.
/// @elements x grid
/// @elements out grid
/// @threadgroup any
/// @default_threadgroup rounds + 1
/// @grid threads * 2
kernel void rotate_many(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                        constant uint& rounds [[buffer(2)]],
                        uint in_grid [[thread_position_in_grid]],
                        uint i [[thread_position_in_threadgroup]],
                        uint threads [[threads_per_threadgroup]]) {
  threadgroup float ring[1024];
  float value = x[in_grid];
  for (uint round = 0; round < rounds; ++round) {
    ring[i] = value;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    value = ring[(i + 1) % threads];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  out[in_grid] = value;
}

// out [grid, 12]: the SIMD-group functions.
/// @elements x grid
/// @elements out grid * 12
/// @threadgroup any
kernel void simd_functions(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
  const float v = x[i];
  device float* o = out + i * 12;
  o[0] = simd_sum(v);
  o[1] = simd_max(v);
  o[2] = simd_min(v);
  o[3] = simd_broadcast(v, 2);
  o[4] = simd_shuffle(v, ushort(i % 3));
  o[5] = simd_shuffle_xor(v, 1);
  o[6] = simd_shuffle_down(v, 1);
  o[7] = simd_shuffle_up(v, 1);
  o[8] = simd_prefix_inclusive_sum(v);
  o[9] = simd_prefix_exclusive_sum(v);
  o[10] = simd_any(v > 30.0f) ? 1.0f : 0.0f;
  o[11] = simd_all(v > -1.0f) ? 1.0f : 0.0f;
}

/// @elements out second_constant
/// @threadgroup any
kernel void constants(device uint* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  if (i < second_constant) out[i] = first_constant * 100 + second_constant;
}

// out = table[index]: index may be written by the dispatch before.
/// @elements table maxof(index) + 1
/// @elements index 1
/// @elements out 1
/// @threadgroup any
kernel void look_up(device const float* table [[buffer(0)]],
                    device const uint* index [[buffer(1)]], device float* out [[buffer(2)]],
                    uint i [[thread_position_in_grid]]) {
  if (i == 0) out[0] = table[index[0]];
}

/// @elements out n
/// @threadgroup any
kernel void fill(device uint* out [[buffer(0)]], constant uint& n [[buffer(1)]],
                 constant uint& value [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < n) out[i] = value;
}

// Every element type of a binding.
/// @elements a 4
/// @elements b 4
/// @elements c 4
/// @elements d 4
/// @elements out 4
/// @threadgroup any
kernel void types(device const half* a [[buffer(0)]], device const uchar* b [[buffer(1)]],
                  device const int* c [[buffer(2)]], device const float4* d [[buffer(3)]],
                  device float* out [[buffer(4)]], constant float& scale [[buffer(5)]],
                  constant int& shift [[buffer(6)]], uint i [[thread_position_in_grid]]) {
  if (i < 4) out[i] = (float(a[i]) + float(b[i]) + float(c[i] + shift) + d[0][i]) * scale;
}
