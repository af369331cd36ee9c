// out = x W^T (+ bias) for matrices that are not quantised and several activation rows (prefill).
#include "matmul_tile.h"

// Weights of kRows rows at columns [depth, depth + 32), zeros behind the matrix; lanes along the
// columns, as memory has them.
template <typename T>
inline void load_weights(device const T* W,
                         MatmulPlace place,
                         uint depth,
                         uint out_dim,
                         uint in_dim,
                         threadgroup float4* tile,
                         uint thread_index) {
  threadgroup float* flat = (threadgroup float*)tile;
  const uint d = thread_index % kDepth;
  for (uint r = thread_index / kDepth; r < kRows; r += kMatmulThreads / kDepth) {
    const ulong row = place.first_row + r;
    const bool inside = row < out_dim && depth + d < in_dim;
    flat[d * kRows + r] = inside ? to_f32(W[row * in_dim + depth + d]) : 0.0f;
  }
}

// out = x W^T + bias; W (out_dim, in_dim), x (n, in_dim), bias (out_dim) where has_bias, out
// (n, out_dim). A threadgroup per 64 weight rows and 32 tokens, row tiles first.
/// @elements W out_dim * in_dim
/// @elements x n * in_dim
/// @elements bias has_bias * out_dim
/// @elements out n * out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 64) * ceil_div(n, 32) * 256
/// @require has_bias <= 1
/// @require grid % 256 == 0
/// @require groups >= ceil_div(out_dim, 64) * ceil_div(n, 32)
template <typename T>
kernel void matmul(device const T* W [[buffer(0)]],
                   device const float* x [[buffer(1)]],
                   device const float* bias [[buffer(2)]],
                   device float* out [[buffer(3)]],
                   constant uint& out_dim [[buffer(4)]],
                   constant uint& in_dim [[buffer(5)]],
                   constant uint& n [[buffer(6)]],
                   constant uint& has_bias [[buffer(7)]],
                   uint group [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float2 x_tile[kTokenTile];
  const MatmulPlace place = matmul_place(group, thread_index, out_dim);
  MatmulSums sums = zero_sums();
  for (uint depth = 0; depth < in_dim; depth += kDepth) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tiles have been read
    load_weights(W, place, depth, out_dim, in_dim, w_tile, thread_index);
    load_tokens(x, place, depth, n, in_dim, x_tile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(w_tile, x_tile, place, sums);
  }
  store_sums(sums, place, n, out_dim, bias, has_bias != 0, out);
}

template [[host_name("matmul_bf16_f32")]] kernel decltype(matmul<bf16>) matmul<bf16>;
template [[host_name("matmul_f16_f32")]] kernel decltype(matmul<half>) matmul<half>;
template [[host_name("matmul_f32_f32")]] kernel decltype(matmul<float>) matmul<float>;
