// Affine-quantised rows: w = q * scale + bias, one bf16 (scale, bias) pair per group_size columns,
// codes q packed little-end first, 32 / kBits a u32 word. kBits is 2, 4 or 8 here: no code
// straddles a word.
#pragma once
#include "common.h"

constant constexpr uint kRowsPerGroup = 8;  // of tiled_row_dot: a SIMD group each of 256 threads

struct PackedRow {
  device const uint* words;
  device const bf16* scales;
  device const bf16* biases;
  uint n_words;
  uint words_per_group;
};

// Row `row` of a matrix W (out, in_dim * kBits / 32), scales and biases (out, in_dim / group_size).
// Where `live` is false the row is empty: its lanes then find nothing to do.
template <uint kBits>
inline PackedRow packed_row(device const uint* W,
                            device const bf16* scales,
                            device const bf16* biases,
                            bool live,
                            uint row,
                            uint in_dim,
                            uint group_size) {
  const uint n_words = in_dim / (32 / kBits);
  const uint n_groups = in_dim / group_size;
  PackedRow r;
  r.words = W + ulong(live ? row : 0) * n_words;
  r.scales = scales + ulong(live ? row : 0) * n_groups;
  r.biases = biases + ulong(live ? row : 0) * n_groups;
  r.n_words = live ? n_words : 0;
  r.words_per_group = group_size / (32 / kBits);
  return r;
}

// A way through a row in equal strides, which knows the group of each stop without a division.
struct GroupWalk {
  uint at;     // in units: words, or what a kernel loads at once
  uint group;  // of `at`
  uint rest;   // at % units_per_group
  uint units_per_group;
  uint stride, stride_groups, stride_rest;  // the step in units, and split by units_per_group
};

inline GroupWalk group_walk(uint first, uint stride, uint units_per_group) {
  GroupWalk walk;
  walk.at = first;
  walk.group = first / units_per_group;
  walk.rest = first % units_per_group;
  walk.units_per_group = units_per_group;
  walk.stride = stride;
  walk.stride_groups = stride / units_per_group;
  walk.stride_rest = stride % units_per_group;
  return walk;
}

inline void advance(thread GroupWalk& walk) {
  walk.at += walk.stride;
  walk.group += walk.stride_groups;
  walk.rest += walk.stride_rest;
  if (walk.rest < walk.units_per_group) return;
  walk.rest -= walk.units_per_group;
  walk.group += 1;
}

// Codes i .. i + 3 of a word.
template <uint kBits>
inline float4 codes4(uint word, uint i) {
  const uint mask = (1u << kBits) - 1u;
  const uint low = word >> (kBits * i);
  return float4(float(low & mask), float(low >> kBits & mask), float(low >> 2 * kBits & mask),
                float(low >> 3 * kBits & mask));
}

// ---- rows against a tile of x in threadgroup memory --------------------------------------------

// Columns of x cached at a time: 8 KiB, so that four threadgroups of 256 threads fit into the
// 32 KiB that Metal gives one. A multiple of what 32 lanes take in a step at any width.
constant constexpr uint kTileColumns = 2048;

// x[begin, begin + n) to the tile; all threads take part. Barriers are the caller's.
inline void load_tile(device const float* x,
                      uint begin,
                      uint n,
                      threadgroup float4* tile,
                      uint thread_index,
                      uint threads) {
  threadgroup float* flat = (threadgroup float*)tile;
  for (uint i = thread_index; i < n; i += threads) flat[i] = x[begin + i];
}

// w . x for the row of this SIMD group, in all its lanes; x (in_dim). A lane takes a word of the
// row at a time; words are contiguous over the lanes. To be called by the whole threadgroup.
template <uint kBits>
inline float tiled_row_dot(PackedRow row,
                           device const float* x,
                           uint in_dim,
                           threadgroup float4* tile,
                           uint thread_index,
                           uint threads,
                           uint lane) {
  const uint per_word = 32 / kBits;
  GroupWalk walk = group_walk(lane, kSimdWidth, row.words_per_group);
  float4 sum = float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (uint begin = 0; begin < in_dim; begin += kTileColumns) {
    const uint n = min(kTileColumns, in_dim - begin);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile has been read
    load_tile(x, begin, n, tile, thread_index, threads);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint first_word = begin / per_word;
    const uint end = min(first_word + n / per_word, row.n_words);
    for (; walk.at < end; advance(walk)) {
      const uint word = row.words[walk.at];
      const float scale = to_f32(row.scales[walk.group]);
      const float bias = to_f32(row.biases[walk.group]);
      threadgroup const float4* columns = tile + (walk.at - first_word) * (per_word / 4);
      for (uint i = 0; i < per_word; i += 4) {
        const float4 value = columns[i / 4];
        sum += fma(codes4<kBits>(word, i), scale * value, bias * value);
      }
    }
  }
  return simd_sum(sum4(sum));
}
