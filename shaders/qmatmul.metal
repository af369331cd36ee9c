// out = x dequant(W)^T (+ bias) for codes of any width and several activation rows (prefill). The
// name says the type of scales and biases.
#include "arguments.h"
#include "tile_codes.h"

// out = x W^T + bias; W u32 (out_dim, in_dim * Bits / 32), scales, biases (out_dim, in_dim /
// group_size), x (n, in_dim), bias (out_dim) where has_bias, out (n, out_dim). A threadgroup per 128
// weight rows and 64 tokens, row tiles first: weights are expanded once for the 64.
/// @elements W out_dim * (in_dim / 32) * Bits
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x n * in_dim
/// @elements bias has_bias * out_dim
/// @elements out n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid ceil_div(out_dim, 128) * ceil_div(n, 64) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require has_bias <= 1
/// @require grid % 128 == 0
/// @require groups >= ceil_div(out_dim, 128) * ceil_div(n, 64)
template <typename T>
kernel void qmatmul(device const uint4* W [[buffer(0)]],
                    device const T* scales [[buffer(1)]],
                    device const T* biases [[buffer(2)]],
                    device const float4* x [[buffer(3)]],
                    device const float* bias [[buffer(4)]],
                    device float* out [[buffer(5)]],
                    constant QMatmulArgs& args [[buffer(6)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float4 x_tile[kTokenTile];
  const DenseTile tile = dense_tile(group, args.out_dim, args.n);
  if (tile.count == 0) return;  // the whole threadgroup
  const TilePlace place = tile_place(thread_index);
  const uint row = min(tile.first_row + place.own, args.out_dim - 1);
  CodeRow<T> source =
      code_row<T>((device const uint*)W, scales, biases, row, args.in_dim, args.group_size);
  TokenRow token = dense_token(x, tile, place, args.in_dim);
  const DenseSink sink = dense_sink(out, bias, args.has_bias != 0, args.out_dim, tile);
  run_tile(source, token, sink, place, args.in_dim, tile.count, w_tile, x_tile);
}

template [[host_name("qmatmul_bf16_f32")]] kernel decltype(qmatmul<bf16>) qmatmul<bf16>;
template [[host_name("qmatmul_f16_f32")]] kernel decltype(qmatmul<half>) qmatmul<half>;
template [[host_name("qmatmul_f32_f32")]] kernel decltype(qmatmul<float>) qmatmul<float>;
