// out = dequant(W) x (+ bias) for codes of any width: one activation row, f32. The name says the
// type of scales and biases.
#include "arguments.h"
#include "codes.h"

// out = W x + bias; W u32 (out_dim, in_dim * Bits / 32), scales, biases (out_dim, in_dim /
// group_size), x (in_dim), bias (out_dim) where has_bias, out (out_dim). Eight rows a threadgroup,
// a SIMD group each; x is cached in threadgroup memory by tiles.
/// @elements W out_dim * (in_dim / 32) * Bits
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements bias has_bias * out_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require has_bias <= 1
/// @require grid / 32 >= out_dim
template <typename T>
kernel void qmatvec(device const uint* W [[buffer(0)]],
                    device const T* scales [[buffer(1)]],
                    device const T* biases [[buffer(2)]],
                    device const float* x [[buffer(3)]],
                    device const float* bias [[buffer(4)]],
                    device float* out [[buffer(5)]],
                    constant QMatvecArgs& args [[buffer(6)]],
                    uint i [[thread_position_in_grid]],
                    uint lane [[thread_index_in_simdgroup]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float4 tile[kTileSize];
  threadgroup float totals[kTileChunks];
  const uint row = i / kSimdWidth;
  const bool live = row < args.out_dim;
  const ulong safe_row = live ? row : 0;
  const ulong group_at = safe_row * (args.in_dim / args.group_size);
  const float dot = chunked_row_dot(W + safe_row * (args.in_dim / 32) * Bits, scales + group_at,
                                    biases + group_at, live, x, args.in_dim, args.group_size, tile,
                                    totals, lane, simdgroup, simdgroups);
  if (live && lane == 0) out[row] = dot + (args.has_bias != 0 ? bias[row] : 0.0f);
}

template [[host_name("qmatvec_bf16_f32")]] kernel decltype(qmatvec<bf16>) qmatvec<bf16>;
template [[host_name("qmatvec_f16_f32")]] kernel decltype(qmatvec<half>) qmatvec<half>;
template [[host_name("qmatvec_f32_f32")]] kernel decltype(qmatvec<float>) qmatvec<float>;
