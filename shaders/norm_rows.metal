// Norms of many rows or heads in one dispatch, with f32 weights, and rotary positions.
#include "arguments.h"
#include "norm.h"

// For each row: out = x * rsqrt(mean(x^2) + eps) * weight; x, out (n, dim), weight (dim). A
// threadgroup per row; x and out may be one buffer.
/// @elements x groups * dim
/// @elements weight dim
/// @elements out groups * dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid len(out) / dim * threads
/// @require grid % threads == 0
kernel void rms_norm_f32(device const float* x [[buffer(0)]],
                         device const float* weight [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant uint& dim [[buffer(3)]],
                         constant float& eps [[buffer(4)]],
                         uint row [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint threads [[threads_per_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  const ulong first = ulong(row) * dim;
  float squares = 0.0f;
  for (uint i = thread_index; i < dim; i += threads) {
    const float value = x[first + i];
    squares = fma(value, value, squares);
  }
  norm_row(x + first, weight, out + first, dim, eps, squares, scratch, thread_index, threads, lane,
           simdgroup, simdgroups);
}

// For each head: out = rms_norm(values) * weight * silu(z); values, z, out (Hv, value_dim),
// weight (value_dim) shared by the heads. A threadgroup per head.
/// @elements values groups * value_dim
/// @elements z groups * value_dim
/// @elements weight value_dim
/// @elements out groups * value_dim
/// @threadgroup multiple of 32
/// @default_threadgroup 128
/// @grid len(values) / value_dim * threads
/// @require grid % threads == 0
template <typename T>
kernel void gated_norm(device const float* values [[buffer(0)]],
                       device const float* z [[buffer(1)]],
                       device const T* weight [[buffer(2)]],
                       device float* out [[buffer(3)]],
                       constant uint& value_dim [[buffer(4)]],
                       constant float& eps [[buffer(5)]],
                       uint head [[threadgroup_position_in_grid]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint threads [[threads_per_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  const ulong first = ulong(head) * value_dim;
  float sum = 0.0f;
  for (uint i = thread_index; i < value_dim; i += threads)
    sum = fma(values[first + i], values[first + i], sum);
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  const float scale = precise::rsqrt(sum / float(value_dim) + eps);
  for (uint i = thread_index; i < value_dim; i += threads)
    out[first + i] = values[first + i] * scale * to_f32(weight[i]) * silu(z[first + i]);
}

template [[host_name("gated_rms_norm")]] kernel decltype(gated_norm<bf16>) gated_norm<bf16>;
template [[host_name("gated_rms_norm_f32")]] kernel decltype(gated_norm<float>) gated_norm<float>;

// For each head of each row: x *= rsqrt(sum of x^2 + eps) * scale, in place; x (n, stride), whose
// first heads * dim columns are the heads. A threadgroup per head, row after row.
/// @elements x n > 0 ? (n - 1) * stride + heads * dim : 0
/// @threadgroup multiple of 32
/// @default_threadgroup 32
/// @grid n * heads * threads
/// @require heads * dim <= stride
/// @require grid == n * heads * threads
kernel void l2_norm_f32(device float* x [[buffer(0)]],
                        constant uint& n [[buffer(1)]],
                        constant uint& heads [[buffer(2)]],
                        constant uint& dim [[buffer(3)]],
                        constant uint& stride [[buffer(4)]],
                        constant float& scale [[buffer(5)]],
                        constant float& eps [[buffer(6)]],
                        uint group [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint threads [[threads_per_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]],
                        uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  device float* head = x + ulong(group / heads) * stride + ulong(group % heads) * dim;
  float sum = 0.0f;
  for (uint i = thread_index; i < dim; i += threads) sum = fma(head[i], head[i], sum);
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  const float factor = precise::rsqrt(sum + eps) * scale;
  for (uint i = thread_index; i < dim; i += threads) head[i] *= factor;
}
