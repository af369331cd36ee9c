// out = dequant(W) x for 2- and 8-bit W, in the form of dequant_matvec_4bit_v3.
#include "affine.h"

// out = W x; W u32 (out_dim, in_dim / 16), scales, biases (out_dim, in_dim / group_size),
// x (in_dim), out (out_dim). Eight rows a threadgroup, a SIMD group each, x cached by tiles.
/// @elements W out_dim * in_dim / 16
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require group_size % 16 == 0
/// @require in_dim % group_size == 0
/// @require grid / 32 >= out_dim
kernel void dequant_matvec_2bit(device const uint* W [[buffer(0)]],
                                device const bf16* scales [[buffer(1)]],
                                device const bf16* biases [[buffer(2)]],
                                device const float* x [[buffer(3)]],
                                device float* out [[buffer(4)]],
                                constant uint& out_dim [[buffer(5)]],
                                constant uint& in_dim [[buffer(6)]],
                                constant uint& group_size [[buffer(7)]],
                                uint group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint threads [[threads_per_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 tile[kTileColumns / 4];
  const uint row = group * 8 + simdgroup;
  const bool live = row < out_dim;
  const PackedRow r = packed_row<2>(W, scales, biases, live, row, in_dim, group_size);
  const float dot = tiled_row_dot<2>(r, x, in_dim, tile, thread_index, threads, lane);
  if (live && lane == 0) out[row] = dot;
}

// As dequant_matvec_2bit with W u32 (out_dim, in_dim / 4).
/// @elements W out_dim * in_dim / 4
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require group_size % 4 == 0
/// @require in_dim % group_size == 0
/// @require grid / 32 >= out_dim
kernel void dequant_matvec_8bit_v3(device const uint* W [[buffer(0)]],
                                   device const bf16* scales [[buffer(1)]],
                                   device const bf16* biases [[buffer(2)]],
                                   device const float* x [[buffer(3)]],
                                   device float* out [[buffer(4)]],
                                   constant uint& out_dim [[buffer(5)]],
                                   constant uint& in_dim [[buffer(6)]],
                                   constant uint& group_size [[buffer(7)]],
                                   uint group [[threadgroup_position_in_grid]],
                                   uint thread_index [[thread_index_in_threadgroup]],
                                   uint threads [[threads_per_threadgroup]],
                                   uint lane [[thread_index_in_simdgroup]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 tile[kTileColumns / 4];
  const uint row = group * 8 + simdgroup;
  const bool live = row < out_dim;
  const PackedRow r = packed_row<8>(W, scales, biases, live, row, in_dim, group_size);
  const float dot = tiled_row_dot<8>(r, x, in_dim, tile, thread_index, threads, lane);
  if (live && lane == 0) out[row] = dot;
}
