// The tile that all products of many rows share: up to 64 tokens by two times 64 rows of weights a
// threadgroup of 128, 8 columns (a stage) at a time. The two halves are consecutive rows of one
// matrix, or the same rows of gate and up. A thread sums up to 8 tokens x (4 + 4) rows in registers.
// While a stage is multiplied, the next one is in the other half of the tiles, and the one behind it
// is on its way from memory.
//
// Each (row, token) sums its columns in ascending order, whatever else is in the tile and however
// many tokens it has.
#pragma once
#include "common.h"

constant constexpr uint kTileThreads = 128;
constant constexpr uint kTileTokens = 64;
constant constexpr uint kHalfRows = 64;
constant constexpr uint kTileRows = 128;
constant constexpr uint kStage = 8;  // columns

// Tiles hold a column after the other. Pitches are in floats; what is more than needed spreads
// stores over the banks.
constant constexpr uint kWeightPitch = 132;  // kTileRows, and 4
constant constexpr uint kTokenPitch = 96;    // 8 lanes
constant constexpr uint kTokenLane = 12;     // tokens lane, lane + 8, .. lane + 56, and 4 more
constant constexpr uint kWeightTile = 528;   // float4s: 2 kStage kWeightPitch / 4
constant constexpr uint kTokenTile = 384;    // float4s: 2 kStage kTokenPitch / 4

// What a thread does in the tile.
struct TilePlace {
  uint row4;        // it sums rows 4 row4 .. of both halves
  uint token_lane;  // of tokens token_lane, + 8, ..
  uint own;         // it brings weights of this row (sources may share them out otherwise)
  uint token;       // and of this token the columns quad .. quad + 3 of a stage
  uint quad;
};

// A SIMD group sums 32 rows of each half x (4 times the tokens of a thread), so that its reads of
// the tiles are few and shared.
inline TilePlace tile_place(uint thread_index) {
  const uint lane = thread_index % kSimdWidth;
  const uint simdgroup = thread_index / kSimdWidth;
  TilePlace place;
  place.row4 = lane % 8 + simdgroup % 2 * 8;
  place.token_lane = lane / 8 + simdgroup / 2 * 4;
  place.own = thread_index;
  place.token = thread_index / 2;
  place.quad = thread_index % 2 * 4;
  return place;
}

// ---- tokens ------------------------------------------------------------------------------------

struct TokenRow {
  device const float* columns;  // that are loaded next
  uint left;                    // how many of them there are
  bool whole;                   // in fours, each aligned
  float4 next;                  // loaded for the next stage
};

inline void load(thread TokenRow& token) {
  token.next = float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (token.whole) {
    if (token.left != 0) token.next = *(device const float4*)token.columns;
  } else {
    for (uint i = 0; i < 4; ++i)
      if (i < token.left) token.next[i] = token.columns[i];
  }
  token.columns += kStage;
  token.left -= min(token.left, kStage);
}

// `row` (in_dim) begins at a multiple of 16 bytes where in_dim is a multiple of 4.
inline TokenRow token_row(device const float* row, uint in_dim, TilePlace place) {
  TokenRow token;
  token.columns = row + place.quad;
  token.left = in_dim - min(in_dim, place.quad);
  token.whole = in_dim % 4 == 0;
  return token;
}

inline void store(thread const TokenRow& token, TilePlace place, threadgroup float* tile) {
  threadgroup float* to =
      tile + place.quad * kTokenPitch + place.token % 8 * kTokenLane + place.token / 8;
  to[0] = token.next.x;
  to[kTokenPitch] = token.next.y;
  to[2 * kTokenPitch] = token.next.z;
  to[3 * kTokenPitch] = token.next.w;
}

// ---- sums --------------------------------------------------------------------------------------

template <uint kPer>
struct TileSums {  // of kPer tokens and four rows of each half
  float4 first[kPer];
  float4 second[kPer];
};

template <uint kPer>
inline void multiply_stage(threadgroup const float* w,
                           threadgroup const float* x,
                           TilePlace place,
                           thread TileSums<kPer>& sums) {
  threadgroup const float* rows = w + place.row4 * 4;
  threadgroup const float* tokens = x + place.token_lane * kTokenLane;
  for (uint d = 0; d < kStage; ++d) {
    const float4 first = *(threadgroup const float4*)rows;
    const float4 second = *(threadgroup const float4*)(rows + kHalfRows);
    float4 values[2];  // of kPer tokens
    if (kPer >= 4) values[0] = *(threadgroup const float4*)tokens;
    if (kPer == 8) values[1] = *(threadgroup const float4*)(tokens + 4);
    if (kPer % 4 == 2) {
      const float2 two = *(threadgroup const float2*)(tokens + kPer - 2);
      values[kPer % 8 / 4] = float4(two.x, two.y, 0.0f, 0.0f);
    }
    if (kPer == 1) values[0] = float4(tokens[0], 0.0f, 0.0f, 0.0f);
    for (uint j = 0; j < kPer; ++j) {
      const float value = values[j / 4][j % 4];
      const float4 spread = float4(value, value, value, value);
      sums.first[j] = fma(first, spread, sums.first[j]);
      sums.second[j] = fma(second, spread, sums.second[j]);
    }
    rows += kWeightPitch;
    tokens += kTokenPitch;
  }
}

// Everything of a tile of up to 8 kPer tokens. A source has begin(source), which loads what the
// first stage needs, and expand(source, place, tile), which writes a stage's weights of this thread
// and then loads those of the next. store_sums(sink, place, token, first, second) takes the sums of
// a token. To be called by the whole threadgroup.
template <uint kPer, typename Source, typename Sink>
inline void run_tile_of(thread Source& source,
                        thread TokenRow& token,
                        thread const Sink& sink,
                        TilePlace place,
                        uint in_dim,
                        uint count,
                        threadgroup float* w_tile,
                        threadgroup float* x_tile) {
  TileSums<kPer> sums;
  for (uint j = 0; j < kPer; ++j) {
    sums.first[j] = float4(0.0f, 0.0f, 0.0f, 0.0f);
    sums.second[j] = sums.first[j];
  }
  const bool brings = place.token < 8 * kPer;  // of more tokens nobody asks
  const uint stages = (in_dim + kStage - 1) / kStage;
  if (stages != 0) begin(source);
  if (brings) load(token);
  for (uint stage = 0; stage <= stages; ++stage) {
    const uint now = stage % 2;
    if (stage < stages) {
      expand(source, place, w_tile + now * kStage * kWeightPitch);
      if (brings) {
        store(token, place, x_tile + now * kStage * kTokenPitch);
        load(token);
      }
    }
    if (stage != 0)
      multiply_stage<kPer>(w_tile + (1 - now) * kStage * kWeightPitch,
                           x_tile + (1 - now) * kStage * kTokenPitch, place, sums);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  for (uint j = 0; j < kPer; ++j) {
    const uint at = place.token_lane + 8 * j;
    if (at < count) store_sums(sink, place, at, sums.first[j], sums.second[j]);
  }
}

#include "tile_matrices.h"

// The same for `count` tokens, 1 to kTileTokens.
template <typename Source, typename Sink>
inline void run_tile(thread Source& source,
                     thread TokenRow& token,
                     thread const Sink& sink,
                     TilePlace place,
                     uint in_dim,
                     uint count,
                     threadgroup float4* w_tile,
                     threadgroup float4* x_tile) {
  threadgroup float* w = (threadgroup float*)w_tile;
  threadgroup float* x = (threadgroup float*)x_tile;
#ifdef MOEFLUX_MATRICES
  if (Matrices != 0) {
    if (count > 48)
      run_tile_by_matrices<4>(source, token, sink, place, in_dim, count, w, x);
    else if (count > 32)
      run_tile_by_matrices<3>(source, token, sink, place, in_dim, count, w, x);
    else if (count > 16)
      run_tile_by_matrices<2>(source, token, sink, place, in_dim, count, w, x);
    else
      run_tile_by_matrices<1>(source, token, sink, place, in_dim, count, w, x);
    return;
  }
#endif
  if (count > 48)
    run_tile_of<8>(source, token, sink, place, in_dim, count, w, x);
  else if (count > 32)
    run_tile_of<6>(source, token, sink, place, in_dim, count, w, x);
  else if (count > 16)
    run_tile_of<4>(source, token, sink, place, in_dim, count, w, x);
  else if (count > 8)
    run_tile_of<2>(source, token, sink, place, in_dim, count, w, x);
  else
    run_tile_of<1>(source, token, sink, place, in_dim, count, w, x);
}

// Rows row .. row + 3 of an output of out_dim, as far as there are.
inline void store_rows(device float* out, uint row, uint out_dim, float4 values) {
  for (uint i = 0; i < 4; ++i)
    if (row + i < out_dim) out[row + i] = values[i];
}

// ---- products of one matrix --------------------------------------------------------------------

struct DenseTile {
  uint first_row, first_token;
  uint count;  // of tokens; 0: the tile lies behind the matrix or behind the tokens
};

// Tile `group`, row tiles first.
inline DenseTile dense_tile(uint group, uint out_dim, uint n) {
  const uint row_tiles = max((out_dim + kTileRows - 1) / kTileRows, 1u);
  DenseTile tile;
  tile.first_row = group % row_tiles * kTileRows;
  const ulong first = ulong(group / row_tiles) * kTileTokens;
  const bool inside = first < n && tile.first_row < out_dim;
  tile.first_token = inside ? uint(first) : 0;
  tile.count = inside ? min(kTileTokens, n - tile.first_token) : 0;
  return tile;
}

// out (n, out_dim) = sums + bias (out_dim) where has_bias.
struct DenseSink {
  device float* out;
  device const float* bias;
  bool has_bias;
  uint out_dim;
  DenseTile tile;
};

inline void store_sums(
    thread const DenseSink& sink, TilePlace place, uint token, float4 first, float4 second) {
  const uint row = sink.tile.first_row + place.row4 * 4;
  device float* out = sink.out + ulong(sink.tile.first_token + token) * sink.out_dim;
  if (sink.has_bias)
    for (uint i = 0; i < 4; ++i) {
      if (row + i < sink.out_dim) first[i] += sink.bias[row + i];
      if (row + kHalfRows + i < sink.out_dim) second[i] += sink.bias[row + kHalfRows + i];
    }
  store_rows(out, row, sink.out_dim, first);
  store_rows(out, row + kHalfRows, sink.out_dim, second);
}

inline DenseSink dense_sink(
    device float* out, device const float* bias, bool has_bias, uint out_dim, DenseTile tile) {
  DenseSink sink;
  sink.out = out;
  sink.bias = bias;
  sink.has_bias = has_bias;
  sink.out_dim = out_dim;
  sink.tile = tile;
  return sink;
}

// The row of x (n, in_dim) that this thread brings; one that is not asked for where its own is
// behind the end.
inline TokenRow dense_token(device const float4* x, DenseTile tile, TilePlace place, uint in_dim) {
  const uint token = tile.first_token + min(place.token, tile.count - 1);
  return token_row((device const float*)x + ulong(token) * in_dim, in_dim, place);
}
