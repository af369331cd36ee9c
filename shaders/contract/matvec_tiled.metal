// out = dequant(W) x for codes of 2, 4 or 8 bits with bf16 scales: the tiled form.
#include "../affine.h"

// out = W x for codes of N bits; W u32 (out_dim, in_dim / (32 / N)), scales, biases (out_dim,
// in_dim / group_size), x (in_dim), out (out_dim). Eight rows a threadgroup, a SIMD group each; x
// is cached in threadgroup memory, a tile at a time, so that device memory sees it once per 8 rows.
/// @elements W out_dim * in_dim / (32 / N)
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 8) * 256
/// @require group_size % (32 / N) == 0
/// @require in_dim % group_size == 0
/// @require grid / 32 >= out_dim
template <uint N>
kernel void tiled_matvec(device const uint* W [[buffer(0)]],
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
  const uint row = group * kRowsPerGroup + simdgroup;
  const bool live = row < out_dim;
  const PackedRow r = packed_row<N>(W, scales, biases, live, row, in_dim, group_size);
  const float dot = tiled_row_dot<N>(r, x, in_dim, tile, thread_index, threads, lane);
  if (live && lane == 0) out[row] = dot;
}

template [[host_name("dequant_matvec_2bit")]] kernel decltype(tiled_matvec<2>) tiled_matvec<2>;
template [[host_name("dequant_matvec_4bit_v3")]] kernel decltype(tiled_matvec<4>) tiled_matvec<4>;
template [[host_name("dequant_matvec_8bit_v3")]] kernel decltype(tiled_matvec<8>) tiled_matvec<8>;
