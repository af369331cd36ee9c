// out = x W^T (+ bias) for matrices that are not quantised and several activation rows (prefill).
#include "tile.h"

constant constexpr uint kNumberRows = 8;  // that a thread brings of a tile, every 16th

// Numbers of any type as the weights of a tile: lanes along the columns, as memory has them.
template <typename T>
struct NumberRows {
  device const T* column;  // of the first of this thread's rows; loaded next
  uint left;               // columns from there on
  uint rows;               // of the matrix, from the thread's first one on
  uint in_dim;
  T next[kNumberRows];  // loaded for the next stage
};

template <typename T>
inline NumberRows<T> number_rows(
    device const T* W, uint first_row, uint out_dim, uint in_dim, uint thread_index) {
  const uint column = thread_index % kStage;
  const uint row = first_row + thread_index / kStage;
  NumberRows<T> source;
  source.column = W + ulong(min(row, out_dim - 1)) * in_dim + min(column, in_dim);
  source.left = in_dim - min(in_dim, column);
  source.rows = out_dim - min(out_dim, row);
  source.in_dim = in_dim;
  return source;
}

template <typename T>
inline void load(thread NumberRows<T>& source) {
  device const T* at = source.column;
  for (uint i = 0; i < kNumberRows; ++i) {
    const bool inside = source.left != 0 && i * (kTileThreads / kStage) < source.rows;
    source.next[i] = inside ? *at : T(0);
    if (inside) at += ulong(kTileThreads / kStage) * source.in_dim;
  }
  source.column += min(kStage, source.left);
  source.left -= min(kStage, source.left);
}

template <typename T>
inline void begin(thread NumberRows<T>& source) {
  load(source);
}

template <typename T>
inline void expand(thread NumberRows<T>& source, TilePlace place, threadgroup float* tile) {
  threadgroup float* to = tile + place.own % kStage * kWeightPitch + place.own / kStage;
  for (uint i = 0; i < kNumberRows; ++i) to[i * (kTileThreads / kStage)] = to_f32(source.next[i]);
  load(source);
}

// out = x W^T + bias; W (out_dim, in_dim), x (n, in_dim), bias (out_dim) where has_bias, out
// (n, out_dim). A threadgroup per 128 weight rows and 64 tokens, row tiles first.
/// @elements W out_dim * in_dim
/// @elements x n * in_dim
/// @elements bias has_bias * out_dim
/// @elements out n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid ceil_div(out_dim, 128) * ceil_div(n, 64) * 128
/// @require has_bias <= 1
/// @require grid % 128 == 0
/// @require groups >= ceil_div(out_dim, 128) * ceil_div(n, 64)
template <typename T>
kernel void matmul(device const T* W [[buffer(0)]],
                   device const float4* x [[buffer(1)]],
                   device const float* bias [[buffer(2)]],
                   device float* out [[buffer(3)]],
                   constant uint& out_dim [[buffer(4)]],
                   constant uint& in_dim [[buffer(5)]],
                   constant uint& n [[buffer(6)]],
                   constant uint& has_bias [[buffer(7)]],
                   uint group [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float4 x_tile[kTokenTile];
  const DenseTile tile = dense_tile(group, out_dim, n);
  if (tile.count == 0) return;  // the whole threadgroup
  const TilePlace place = tile_place(thread_index);
  NumberRows<T> source = number_rows<T>(W, tile.first_row, out_dim, in_dim, thread_index);
  TokenRow token = dense_token(x, tile, place, in_dim);
  const DenseSink sink = dense_sink(out, bias, has_bias != 0, out_dim, tile);
  run_tile(source, token, sink, place, in_dim, tile.count, w_tile, x_tile);
}

template [[host_name("matmul_bf16_f32")]] kernel decltype(matmul<bf16>) matmul<bf16>;
template [[host_name("matmul_f16_f32")]] kernel decltype(matmul<half>) matmul<half>;
template [[host_name("matmul_f32_f32")]] kernel decltype(matmul<float>) matmul<float>;
