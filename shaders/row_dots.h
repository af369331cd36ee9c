// Products of several rows of a quantised matrix with a few rows of x. Where the rows are few, the
// SIMD groups of a threadgroup share the columns, so that more are under way; what they have is
// added through threadgroup memory. A lane takes 16 columns of each row at a time, in one or two wide
// loads; x is loaded once for all rows, and weights once for all rows of x.
#pragma once
#include "half_codes.h"

constant constexpr uint kUnit = 16;  // columns that a lane takes in a step
constant constexpr uint kParts = 4;  // SIMD groups that share the columns of rows

// A matrix: codes in words, from a multiple of 16 bytes on (8 for 2 bits); a scale and a bias for
// each group of 32, 64 or 128 columns. Places in it are 32 bits: a matrix is at most 16 GiB, and
// GPUs add such a place to an address for nothing.
template <typename T>
struct Codes {
  device const uint* words;
  device const T* scales;
  device const T* biases;
  uint words_at, scales_at, biases_at;  // where the matrix begins in them
};

template <typename T>
inline Codes<T> codes_at(device const uint* words, device const T* scales, device const T* biases) {
  Codes<T> codes;
  codes.words = words;
  codes.scales = scales;
  codes.biases = biases;
  codes.words_at = codes.scales_at = codes.biases_at = 0;
  return codes;
}

inline Codes<bf16> codes_in(device const uint* slot,
                            uint words_at,
                            uint scales_at,
                            uint biases_at) {
  Codes<bf16> codes = codes_at(slot, (device const bf16*)slot, (device const bf16*)slot);
  codes.words_at = words_at;
  codes.scales_at = scales_at;
  codes.biases_at = biases_at;
  return codes;
}

// Rows of matrices of one shape, and which of their columns a SIMD group takes.
struct Rows {
  uint first;        // from here on
  uint n;            // of a matrix
  uint n_units;      // of a row
  uint group_shift;  // units of a group: 1 << group_shift
  uint begin, end;   // units of a row that are the SIMD group's
};

// All columns of rows from `own` on. All R rows must be there, so that the last ones may begin
// earlier.
inline Rows rows_at(uint own, uint R, uint out_dim, uint in_dim, uint group_size) {
  Rows rows;
  rows.first = min(own, max(out_dim, R) - R);
  rows.n = out_dim;
  rows.n_units = in_dim / kUnit;
  rows.group_shift = group_size / 64 + 1;  // 32: 1, 64: 2, 128: 3
  rows.begin = 0;
  rows.end = rows.n_units;
  return rows;
}

// What a SIMD group takes of them where kParts share the columns: whole steps of all its lanes. How
// many depends on in_dim alone.
inline Rows part_of(Rows rows, uint simdgroup) {
  const uint each = (rows.n_units + kParts * kSimdWidth - 1) / (kParts * kSimdWidth) * kSimdWidth;
  rows.begin = min(simdgroup * each, rows.n_units);
  rows.end = min(rows.begin + each, rows.n_units);
  return rows;
}

inline void load16(device const float4* x, uint first, thread float* to) {
  for (uint i = 0; i < 4; ++i) {
    const float4 four = x[first + i];
    to[4 * i] = four.x;
    to[4 * i + 1] = four.y;
    to[4 * i + 2] = four.z;
    to[4 * i + 3] = four.w;
  }
}

inline float scale_of(bf16 bits) {  // a shift by half a word that moves registers instead
  return as_type<float>(ushort2(0, bits));
}
inline float scale_of(half value) {
  return float(value);
}
inline float scale_of(float value) {
  return value;
}

// This lane's part of sums[m * R + r][j] += row r of matrix m . x[from + j] for R rows of M matrices
// and n of N rows of x (.., 4 n_units float4s): the sum over all that share the row is the product.
// Where a matrix has less than R rows, the last one stands for those behind it.
template <uint M, uint R, uint N, typename T>
inline void add_dots(Rows rows,
                     thread const Codes<T> (&matrices)[M],
                     device const float4* x,
                     uint from,
                     uint n,
                     uint lane,
                     thread float (&sums)[M * R][N]) {
  const uint n_groups = rows.n_units >> rows.group_shift;
  uint at = rows.first * rows.n_units + rows.begin + lane;  // of the matrix: rows are whole groups
  for (uint unit = rows.begin + lane; unit < rows.end; unit += kSimdWidth, at += kSimdWidth) {
    const uint group = at >> rows.group_shift;
    uint words[M * R][4];
    float scales[M * R], biases[M * R];
    for (uint i = 0; i < M * R; ++i) {
      const uint row = min(i % R, rows.n - 1);
      const Codes<T> matrix = matrices[i / R];
      load_words(matrix.words, matrix.words_at, at + row * rows.n_units, words[i]);
      scales[i] = scale_of(matrix.scales[matrix.scales_at + row * n_groups + group]);
      biases[i] = scale_of(matrix.biases[matrix.biases_at + row * n_groups + group]);
    }
    float q[M * R][16];
    for (uint i = 0; i < M * R; ++i) codes16(words[i], q[i]);
    for (uint j = 0; j < N; ++j) {
      float values[16], total = 0.0f;
      load16(x, ((from + min(j, n - 1)) * rows.n_units + unit) * 4, values);
      for (uint c = 0; c < 16; ++c) total += values[c];
      for (uint i = 0; i < M * R; ++i) {
        float dot = 0.0f;
        for (uint c = 0; c < 16; ++c) dot = fma(q[i][c], values[c], dot);
        sums[i][j] = fma(scales[i], dot, fma(biases[i], total, sums[i][j]));
      }
    }
  }
}

// Hands what the SIMD groups have of `sums` round, for part_sum(). To be called by all threads, once;
// parts has kParts * kSums * N * kSimdWidth elements.
template <uint kSums, uint N>
inline void share_parts(thread const float (&sums)[kSums][N],
                        threadgroup float* parts,
                        uint lane,
                        uint simdgroup) {
  for (uint i = 0; i < kSums; ++i)
    for (uint j = 0; j < N; ++j)
      parts[((simdgroup * kSums + i) * N + j) * kSimdWidth + lane] = sums[i][j];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The sum over the threadgroup of number i of `of`, in all lanes: lane by lane, the first SIMD
// group's first, and then over the lanes.
inline float part_sum(threadgroup const float* parts, uint of, uint i, uint lane) {
  float sum = parts[i * kSimdWidth + lane];
  for (uint part = 1; part < kParts; ++part) sum += parts[(part * of + i) * kSimdWidth + lane];
  return simd_sum(sum);
}
