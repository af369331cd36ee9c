// out = dequant(W) x (+ bias) for codes of any width and a few rows of x, f32: the form that decode
// uses. A name says the type of scales and biases, and with a 4 that rows of x are taken by four.
#include "activation.h"
#include "arguments.h"
#include "row_dots.h"

// SIMD groups of qmatvec that share the columns of rows: four, or one, so that each has rows of its
// own, which is faster where there are very many.
/// @default 4
constant uint Parts [[function_constant(11)]];

// out[from + j] = matrix x[from + j] + bias for the rows of the matrix that a threadgroup answers for.
template <uint R, uint N, typename T>
inline void product_rows(Rows rows,
                         uint own,
                         Codes<T> of,
                         device const float4* x,
                         uint from,
                         uint n,
                         device const float* bias,
                         bool has_bias,
                         device float* out,
                         threadgroup float* parts,
                         uint lane,
                         uint simdgroup) {
  const Codes<T> matrix[1] = {of};
  float sums[R][N] = {};
  add_dots<1, R, N>(rows, matrix, x, from, n, lane, sums);
  share_parts(sums, parts, lane, simdgroup);
  for (uint i = simdgroup; i < R * N; i += kParts) {
    const float sum = part_sum(parts, R * N, i, lane);
    const uint row = rows.first + i / N, j = i % N;
    if (lane == 0 && j < n && row >= own && row < rows.n)
      out[ulong(from + j) * rows.n + row] = sum + (has_bias ? bias[row] : 0.0f);
  }
}

// The same for rows that no other SIMD group has.
template <uint R, uint N, typename T>
inline void product_alone(Rows rows,
                          uint own,
                          Codes<T> of,
                          device const float4* x,
                          uint from,
                          uint n,
                          device const float* bias,
                          bool has_bias,
                          device float* out,
                          uint lane) {
  const Codes<T> matrix[1] = {of};
  float sums[R][N] = {};
  add_dots<1, R, N>(rows, matrix, x, from, n, lane, sums);
#pragma unroll
  for (uint i = 0; i < R * N; ++i) {
    const float sum = simd_sum(sums[i / N][i % N]);
    const uint row = rows.first + i / N, j = i % N;
    if (lane == 0 && j < n && row >= own && row < rows.n)
      out[ulong(from + j) * rows.n + row] = sum + (has_bias ? bias[row] : 0.0f);
  }
}

// out[j] = W x[j] + bias; W u32 (out_dim, in_dim * Bits / 32), scales, biases (out_dim, in_dim /
// group_size), x (n, in_dim), bias (out_dim) where has_bias, out (n, out_dim). R rows of W and N of
// x for each Parts SIMD groups. A row's bits do not depend on n, nor on N or R; they do on Parts.
/// @aligned W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements W out_dim * (in_dim / 32) * Bits
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x n * in_dim
/// @elements bias has_bias * out_dim
/// @elements out n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid ceil_div(n, N) * ceil_div(out_dim, R * 4 / Parts) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require Parts == 1 || Parts == 4
/// @require group_size == 32 || group_size == 64 || group_size == 128
/// @require in_dim % group_size == 0
/// @require out_dim * (in_dim / 32) * Bits < 4294967296 && n * in_dim < 4294967296
/// @require has_bias <= 1
/// @require grid == ceil_div(n, N) * ceil_div(out_dim, R * 4 / Parts) * 128
template <typename T, uint N, uint R>
kernel void qmatvec(device const uint* W [[buffer(0)]],
                    device const T* scales [[buffer(1)]],
                    device const T* biases [[buffer(2)]],
                    device const float4* x [[buffer(3)]],
                    device const float* bias [[buffer(4)]],
                    device float* out [[buffer(5)]],
                    constant QMatvecArgs& args [[buffer(6)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint lane [[thread_index_in_simdgroup]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float parts[kParts * R * N * kSimdWidth];
  const uint tile_rows = Parts == 1 ? kParts * R : R;
  const uint tiles = (args.out_dim + tile_rows - 1) / tile_rows;
  const uint own =
      group % tiles * tile_rows + (Parts == 1 ? simdgroup * R : 0);  // rows from here on
  const uint from = group / tiles * N;                               // of x
  const uint n = min(uint(N), args.n - from);
  const Rows rows = rows_at(own, R, args.out_dim, args.in_dim, args.group_size);
  const Codes<T> matrix = codes_at(W, scales, biases);
  if (Parts == 1)
    product_alone<R, N>(rows, own, matrix, x, from, n, bias, args.has_bias != 0, out, lane);
  else
    product_rows<R, N>(part_of(rows, simdgroup), own, matrix, x, from, n, bias, args.has_bias != 0,
                       out, parts, lane, simdgroup);
}

template [[host_name("qmatvec_bf16_f32")]] kernel decltype(qmatvec<bf16, 1, 4>) qmatvec<bf16, 1, 4>;
template [[host_name("qmatvec_f16_f32")]] kernel decltype(qmatvec<half, 1, 4>) qmatvec<half, 1, 4>;
template
    [[host_name("qmatvec_f32_f32")]] kernel decltype(qmatvec<float, 1, 4>) qmatvec<float, 1, 4>;
template
    [[host_name("qmatvec4_bf16_f32")]] kernel decltype(qmatvec<bf16, 4, 2>) qmatvec<bf16, 4, 2>;
template [[host_name("qmatvec4_f16_f32")]] kernel decltype(qmatvec<half, 4, 2>) qmatvec<half, 4, 2>;
template
    [[host_name("qmatvec4_f32_f32")]] kernel decltype(qmatvec<float, 4, 2>) qmatvec<float, 4, 2>;

constant constexpr uint kTogetherRows = 4;  // of a threadgroup of qmatvecs

// What qmatvec gives for one row of x and up to three matrices of one form, which have as many tiles
// of rows each as they would have alone: first_out = first_W x + first_bias where first_biased, and
// so on. A matrix of no rows is none. The bits are those of qmatvec.
/// @aligned first_W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements first_W first_rows * (in_dim / 32) * Bits
/// @elements first_scales first_rows * in_dim / group_size
/// @elements first_biases first_rows * in_dim / group_size
/// @elements first_bias first_biased * first_rows
/// @elements first_out first_rows
/// @aligned second_W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements second_W second_rows * (in_dim / 32) * Bits
/// @elements second_scales second_rows * in_dim / group_size
/// @elements second_biases second_rows * in_dim / group_size
/// @elements second_bias second_biased * second_rows
/// @elements second_out second_rows
/// @aligned third_W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements third_W third_rows * (in_dim / 32) * Bits
/// @elements third_scales third_rows * in_dim / group_size
/// @elements third_biases third_rows * in_dim / group_size
/// @elements third_bias third_biased * third_rows
/// @elements third_out third_rows
/// @elements x in_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid (ceil_div(first_rows, 4) + ceil_div(second_rows, 4) + ceil_div(third_rows, 4)) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size == 32 || group_size == 64 || group_size == 128
/// @require in_dim % group_size == 0
/// @require first_rows * (in_dim / 32) * Bits < 4294967296 && first_biased <= 1
/// @require second_rows * (in_dim / 32) * Bits < 4294967296 && second_biased <= 1
/// @require third_rows * (in_dim / 32) * Bits < 4294967296 && third_biased <= 1
/// @require grid == (ceil_div(first_rows, 4) + ceil_div(second_rows, 4) + ceil_div(third_rows, 4)) * 128
template <typename T>
kernel void qmatvecs(device const uint* first_W [[buffer(0)]],
                     device const T* first_scales [[buffer(1)]],
                     device const T* first_biases [[buffer(2)]],
                     device const float* first_bias [[buffer(3)]],
                     device float* first_out [[buffer(4)]],
                     device const uint* second_W [[buffer(5)]],
                     device const T* second_scales [[buffer(6)]],
                     device const T* second_biases [[buffer(7)]],
                     device const float* second_bias [[buffer(8)]],
                     device float* second_out [[buffer(9)]],
                     device const uint* third_W [[buffer(10)]],
                     device const T* third_scales [[buffer(11)]],
                     device const T* third_biases [[buffer(12)]],
                     device const float* third_bias [[buffer(13)]],
                     device float* third_out [[buffer(14)]],
                     device const float4* x [[buffer(15)]],
                     constant QMatvecsArgs& args [[buffer(16)]],
                     uint group [[threadgroup_position_in_grid]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float parts[kParts * kTogetherRows * kSimdWidth];
  const uint first_tiles = (args.first_rows + kTogetherRows - 1) / kTogetherRows;
  const uint second_tiles = (args.second_rows + kTogetherRows - 1) / kTogetherRows;
  uint tile = group, n_rows = args.first_rows;
  Codes<T> matrix = codes_at(first_W, first_scales, first_biases);
  device const float* bias = first_bias;
  bool has_bias = args.first_biased != 0;
  device float* out = first_out;
  if (group >= first_tiles + second_tiles) {
    tile = group - first_tiles - second_tiles;
    n_rows = args.third_rows;
    matrix = codes_at(third_W, third_scales, third_biases);
    bias = third_bias;
    has_bias = args.third_biased != 0;
    out = third_out;
  } else if (group >= first_tiles) {
    tile = group - first_tiles;
    n_rows = args.second_rows;
    matrix = codes_at(second_W, second_scales, second_biases);
    bias = second_bias;
    has_bias = args.second_biased != 0;
    out = second_out;
  }
  const uint own = tile * kTogetherRows;
  const Rows rows =
      part_of(rows_at(own, kTogetherRows, n_rows, args.in_dim, args.group_size), simdgroup);
  product_rows<kTogetherRows, 1>(rows, own, matrix, x, 0, 1, bias, has_bias, out, parts, lane,
                                 simdgroup);
}

template [[host_name("qmatvecs_bf16_f32")]] kernel decltype(qmatvecs<bf16>) qmatvecs<bf16>;
template [[host_name("qmatvecs_f16_f32")]] kernel decltype(qmatvecs<half>) qmatvecs<half>;
template [[host_name("qmatvecs_f32_f32")]] kernel decltype(qmatvecs<float>) qmatvecs<float>;

// out[j] = activation(gate x[j], up x[j]) for two matrices of one shape and format, as above: x is read
// once for the two. R rows of each a threadgroup.
/// @aligned gate_W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements gate_W out_dim * (in_dim / 32) * Bits
/// @elements gate_scales out_dim * in_dim / group_size
/// @elements gate_biases out_dim * in_dim / group_size
/// @aligned up_W Bits == 8 ? 16 : Bits == 4 ? 8 : 4
/// @elements up_W out_dim * (in_dim / 32) * Bits
/// @elements up_scales out_dim * in_dim / group_size
/// @elements up_biases out_dim * in_dim / group_size
/// @elements x n * in_dim
/// @elements out n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid ceil_div(n, N) * ceil_div(out_dim, R) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require Activation <= 3 && Gated == 1
/// @require group_size == 32 || group_size == 64 || group_size == 128
/// @require in_dim % group_size == 0
/// @require out_dim * (in_dim / 32) * Bits < 4294967296 && n * in_dim < 4294967296
/// @require grid == ceil_div(n, N) * ceil_div(out_dim, R) * 128
template <typename T, uint N, uint R>
kernel void qgate_up(device const uint* gate_W [[buffer(0)]],
                     device const T* gate_scales [[buffer(1)]],
                     device const T* gate_biases [[buffer(2)]],
                     device const uint* up_W [[buffer(3)]],
                     device const T* up_scales [[buffer(4)]],
                     device const T* up_biases [[buffer(5)]],
                     device const float4* x [[buffer(6)]],
                     device float* out [[buffer(7)]],
                     constant QGateUpArgs& args [[buffer(8)]],
                     uint group [[threadgroup_position_in_grid]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float parts[kParts * 2 * R * N * kSimdWidth];
  const uint tiles = (args.out_dim + R - 1) / R;
  const uint own = group % tiles * R;
  const uint from = group / tiles * N;
  const Rows rows = part_of(rows_at(own, R, args.out_dim, args.in_dim, args.group_size), simdgroup);
  const Codes<T> matrices[2] = {codes_at(gate_W, gate_scales, gate_biases),
                                codes_at(up_W, up_scales, up_biases)};
  const ActivationNumbers numbers = activation_numbers(args.limit, args.alpha, args.up_add);
  const uint n = min(uint(N), args.n - from);
  float sums[2 * R][N] = {};
  add_dots<2, R, N>(rows, matrices, x, from, n, lane, sums);
  share_parts(sums, parts, lane, simdgroup);
  for (uint i = simdgroup; i < R * N; i += kParts) {
    const float gate = part_sum(parts, 2 * R * N, i, lane);
    const float up = part_sum(parts, 2 * R * N, R * N + i, lane);
    const uint row = rows.first + i / N, j = i % N;
    if (lane == 0 && j < n && row >= own && row < args.out_dim)
      out[ulong(from + j) * args.out_dim + row] = activation(gate, up, numbers);
  }
}

template
    [[host_name("qgate_up_bf16_f32")]] kernel decltype(qgate_up<bf16, 1, 2>) qgate_up<bf16, 1, 2>;
template
    [[host_name("qgate_up_f16_f32")]] kernel decltype(qgate_up<half, 1, 2>) qgate_up<half, 1, 2>;
template
    [[host_name("qgate_up_f32_f32")]] kernel decltype(qgate_up<float, 1, 2>) qgate_up<float, 1, 2>;
template
    [[host_name("qgate_up4_bf16_f32")]] kernel decltype(qgate_up<bf16, 4, 1>) qgate_up<bf16, 4, 1>;
template
    [[host_name("qgate_up4_f16_f32")]] kernel decltype(qgate_up<half, 4, 1>) qgate_up<half, 4, 1>;
template
    [[host_name("qgate_up4_f32_f32")]] kernel decltype(qgate_up<float, 4, 1>) qgate_up<float, 4, 1>;
