// What a part of a layer adds to the residual stream, and the norm of the sum that the next part
// begins with, in one dispatch.
#include "arguments.h"
#include "combine.h"
#include "norm.h"

// For each row: x += y, and out = x * rsqrt(mean(x^2) + eps) * weight; x, y, out (n, dim), weight
// (dim). A threadgroup per row. The bits of residual_add and rms_norm_f32.
/// @elements x groups * dim
/// @elements y groups * dim
/// @elements weight dim
/// @elements out groups * dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid len(out) / dim * threads
/// @require grid % threads == 0
kernel void residual_norm_f32(device float* x [[buffer(0)]],
                              device const float* y [[buffer(1)]],
                              device const float* weight [[buffer(2)]],
                              device float* out [[buffer(3)]],
                              constant uint& dim [[buffer(4)]],
                              constant float& eps [[buffer(5)]],
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
    const float value = x[first + i] + y[first + i];
    x[first + i] = value;
    squares = fma(value, value, squares);
  }
  norm_row(x + first, weight, out + first, dim, eps, squares, scratch, thread_index, threads, lane,
           simdgroup, simdgroups);
}

// The same where what is added is that of moe_combine_f32, whose arguments these are, and whose
// bits. A threadgroup per row.
/// @elements x n * dim
/// @elements weights n * top_k
/// @elements expert_out n * top_k * dim
/// @elements shared has_shared * n * dim
/// @elements gates has_shared * has_gate * n
/// @elements weight dim
/// @elements out n * dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid n * threads
/// @require has_shared <= 1 && has_gate <= 1
/// @require grid == n * threads
kernel void moe_combine_norm_f32(device float* x [[buffer(0)]],
                                 device const float* weights [[buffer(1)]],
                                 device const float* expert_out [[buffer(2)]],
                                 device const float* shared [[buffer(3)]],
                                 device const float* gates [[buffer(4)]],
                                 device const float* weight [[buffer(5)]],
                                 device float* out [[buffer(6)]],
                                 constant MoeCombineNormArgs& args [[buffer(7)]],
                                 uint row [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]],
                                 uint threads [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                                 uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  const ulong first = ulong(row) * args.dim, pair = ulong(row) * args.top_k;
  const bool has_shared = args.has_shared != 0;
  const ulong shared_row = has_shared ? first : 0;
  const float gate = has_shared && args.has_gate != 0 ? sigmoid(gates[row]) : 1.0f;
  float squares = 0.0f;
  for (uint i = thread_index; i < args.dim; i += threads) {
    const float value =
        x[first + i] + combined(weights + pair, expert_out + pair * args.dim, args.top_k,
                                shared + shared_row, has_shared, gate, args.dim, i);
    x[first + i] = value;
    squares = fma(value, value, squares);
  }
  norm_row(x + first, weight, out + first, args.dim, args.eps, squares, scratch, thread_index,
           threads, lane, simdgroup, simdgroups);
}
