// The tile that matrix products share: 64 weight rows x 32 tokens a threadgroup of 256, 32 columns
// at a time. A thread sums 4 rows x 2 tokens; each (row, token) sums its columns in one fixed
// order, whatever else is in the tile.
#pragma once
#include "common.h"

constant constexpr uint kMatmulThreads = 256;
constant constexpr uint kRows = 64;
constant constexpr uint kTokens = 32;
constant constexpr uint kDepth = 32;        // columns at a time
constant constexpr uint kWeightTile = 512;  // kDepth * kRows / 4 float4s
constant constexpr uint kTokenPitch = 17;   // float2s: one more than kTokens / 2, which spreads
constant constexpr uint kTokenTile = 544;   // stores over the banks; kDepth * kTokenPitch

struct MatmulPlace {
  ulong first_row, first_token;  // of the threadgroup's tile
  uint row4, token2;             // of the thread in it: rows 4 row4 .., tokens 2 token2 ..
};

struct MatmulSums {
  float4 first, second;  // four rows for the first and for the second token
};

inline MatmulSums zero_sums() {
  MatmulSums sums;
  sums.first = float4(0.0f, 0.0f, 0.0f, 0.0f);
  sums.second = sums.first;
  return sums;
}

inline MatmulPlace matmul_place(uint group, uint thread_index, uint out_dim) {
  const uint row_tiles = max((out_dim + kRows - 1) / kRows, 1u);
  MatmulPlace place;
  place.first_row = ulong(group % row_tiles) * kRows;
  place.first_token = ulong(group / row_tiles) * kTokens;
  place.row4 = thread_index % (kRows / 4);
  place.token2 = thread_index / (kRows / 4);
  return place;
}

// x (n, in_dim) at columns [depth, depth + 32) of the tile's tokens, zeros behind the end.
inline void load_tokens(device const float* x,
                        MatmulPlace place,
                        uint depth,
                        uint n,
                        uint in_dim,
                        threadgroup float2* tile,
                        uint thread_index) {
  threadgroup float* flat = (threadgroup float*)tile;
  const uint d = thread_index % kDepth;
  for (uint t = thread_index / kDepth; t < kTokens; t += kMatmulThreads / kDepth) {
    const ulong token = place.first_token + t;
    const bool inside = token < n && depth + d < in_dim;
    flat[d * 2 * kTokenPitch + t] = inside ? x[token * in_dim + depth + d] : 0.0f;
  }
}

inline void multiply_tiles(threadgroup const float4* w_tile,
                           threadgroup const float2* x_tile,
                           MatmulPlace place,
                           thread MatmulSums& sums) {
  for (uint d = 0; d < kDepth; ++d) {
    const float4 w = w_tile[d * (kRows / 4) + place.row4];
    const float2 x = x_tile[d * kTokenPitch + place.token2];
    sums.first = fma(w, float4(x.x, x.x, x.x, x.x), sums.first);
    sums.second = fma(w, float4(x.y, x.y, x.y, x.y), sums.second);
  }
}

// out (n, out_dim) = sums + bias (out_dim), where they lie inside.
inline void store_sums(MatmulSums sums,
                       MatmulPlace place,
                       uint n,
                       uint out_dim,
                       device const float* bias,
                       bool has_bias,
                       device float* out) {
  for (uint t = 0; t < 2; ++t) {
    const ulong token = place.first_token + place.token2 * 2 + t;
    for (uint r = 0; r < 4; ++r) {
      const ulong row = place.first_row + place.row4 * 4 + r;
      if (row >= out_dim || token >= n) continue;
      const float sum = t == 0 ? sums.first[r] : sums.second[r];
      out[token * out_dim + row] = sum + (has_bias ? bias[row] : 0.0f);
    }
  }
}
