// out = x dequant(W)^T (+ bias) for codes of any width and several activation rows (prefill). The
// name says the type of scales and biases.
#include "arguments.h"
#include "codes.h"
#include "matmul_tile.h"

// Weights of kRows rows at columns [depth, depth + 32): four threads a row, eight codes each.
template <typename Scale>
inline void load_codes(device const uint* W,
                       device const Scale* scales,
                       device const Scale* biases,
                       MatmulPlace place,
                       uint depth,
                       uint out_dim,
                       uint in_dim,
                       uint group_size,
                       threadgroup float4* tile,
                       uint thread_index) {
  threadgroup float* flat = (threadgroup float*)tile;
  const uint r = thread_index % kRows;
  const uint octet = thread_index / kRows;
  const ulong row = place.first_row + r;
  ulong codes = 0;
  float scale = 0.0f;
  float bias = 0.0f;
  if (row < out_dim) {
    const ulong group = row * (in_dim / group_size) + depth / group_size;
    codes = codes8(W + row * (in_dim / 32) * Bits, depth + octet * 8);
    scale = to_f32(scales[group]);
    bias = to_f32(biases[group]);
  }
  for (uint i = 0; i < 8; ++i)
    flat[(octet * 8 + i) * kRows + r] = fma(code_of(codes, i), scale, bias);
}

// out = x W^T + bias; W u32 (out_dim, in_dim * Bits / 32), scales, biases (out_dim, in_dim /
// group_size), x (n, in_dim), bias (out_dim) where has_bias, out (n, out_dim). A threadgroup per 64
// weight rows and 32 tokens, row tiles first: weights are expanded once for the 32.
/// @elements W out_dim * (in_dim / 32) * Bits
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x n * in_dim
/// @elements bias has_bias * out_dim
/// @elements out n * out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid ceil_div(out_dim, 64) * ceil_div(n, 32) * 256
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require has_bias <= 1
/// @require grid % 256 == 0
/// @require groups >= ceil_div(out_dim, 64) * ceil_div(n, 32)
template <typename T>
kernel void qmatmul(device const uint* W [[buffer(0)]],
                    device const T* scales [[buffer(1)]],
                    device const T* biases [[buffer(2)]],
                    device const float* x [[buffer(3)]],
                    device const float* bias [[buffer(4)]],
                    device float* out [[buffer(5)]],
                    constant QMatmulArgs& args [[buffer(6)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float2 x_tile[kTokenTile];
  const MatmulPlace place = matmul_place(group, thread_index, args.out_dim);
  MatmulSums sums = zero_sums();
  for (uint depth = 0; depth < args.in_dim; depth += kDepth) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tiles have been read
    load_codes(W, scales, biases, place, depth, args.out_dim, args.in_dim, args.group_size, w_tile,
               thread_index);
    load_tokens(x, place, depth, args.n, args.in_dim, x_tile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(w_tile, x_tile, place, sums);
  }
  store_sums(sums, place, args.n, args.out_dim, bias, args.has_bias != 0, out);
}

template [[host_name("qmatmul_bf16_f32")]] kernel decltype(qmatmul<bf16>) qmatmul<bf16>;
template [[host_name("qmatmul_f16_f32")]] kernel decltype(qmatmul<half>) qmatmul<half>;
template [[host_name("qmatmul_f32_f32")]] kernel decltype(qmatmul<float>) qmatmul<float>;
