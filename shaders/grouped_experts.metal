// Rows of all experts of a layer that are ready, in two dispatches: gate, up and their activation,
// and down. A list of tiles says which expert takes which rows: rows are gathered as they are
// loaded, outputs scattered as they are stored.
#include "activation.h"
#include "arguments.h"
#include "expert_bias.h"
#include "slabs.h"
#include "tile_codes.h"

// A tile of the list: rows first .. first + count - 1 of the sorted rows, by the expert in the slot
// of `entry`.
struct GroupedTile {
  uint entry, first, count;
};

// Tile k; without rows where its own are not all among the n.
inline GroupedTile grouped_tile(device const uint* tiles, uint k, uint n) {
  GroupedTile tile;
  tile.entry = tiles[3 * k];
  tile.first = tiles[3 * k + 1];
  tile.count = tiles[3 * k + 2];
  if (tile.count > kTileTokens || tile.count > n || tile.first > n - tile.count) tile.count = 0;
  return tile;
}

// Row `row` of the matrix in a slot whose codes start at word weights_at, whose scales and biases at
// the values scales_at and biases_at.
template <typename Scale>
inline CodeRow<Scale> slot_row(device const uint* slot,
                               uint weights_at,
                               uint scales_at,
                               uint biases_at,
                               uint row,
                               uint in_dim,
                               uint group_size) {
  device const Scale* values = (device const Scale*)slot;
  return code_row<Scale>(slot + weights_at, values + scales_at, values + biases_at, row, in_dim,
                         group_size);
}

// hidden (n, out_dim) = the activation of gate (first) and up (second), with biases (out_dim) where
// they are said to be; without a gate up's rows are in both halves.
struct HiddenSink {
  device float* hidden;
  device const float* gate_bias;  // found once sums are stored: nothing lives through the products
  device const float* up_bias;
  device const uint* experts;
  uint tile, n_biased;
  uint out_dim, row, first;
  ActivationNumbers numbers;
};

inline float4 activated(float4 gate, float4 up, ActivationNumbers numbers) {
  return float4(activation(gate.x, up.x, numbers), activation(gate.y, up.y, numbers),
                activation(gate.z, up.z, numbers), activation(gate.w, up.w, numbers));
}

inline void store_sums(
    thread const HiddenSink& sink, TilePlace place, uint token, float4 first, float4 second) {
  device float* to = sink.hidden + ulong(sink.first + token) * sink.out_dim;
  const uint row = sink.row + place.row4 * 4;
  if (Biased != 0) {
    const ulong at = bias_at(sink.experts[sink.tile], sink.n_biased, sink.out_dim);
    device const float* bias = Gated != 0 ? sink.gate_bias : sink.up_bias;
    const uint other = Gated != 0 ? row : row + kHalfRows;
    first = with_bias(first, bias + at, row, sink.out_dim);
    second = with_bias(second, sink.up_bias + at, other, sink.out_dim);
  }
  if (Gated != 0) {
    store_rows(to, row, sink.out_dim, activated(first, second, sink.numbers));
  } else {
    store_rows(to, row, sink.out_dim, activated(first, first, sink.numbers));
    store_rows(to, row + kHalfRows, sink.out_dim, activated(second, second, sink.numbers));
  }
}

// hidden[i] = activation(gate_k x[rows[i]], up_k x[rows[i]]) for the rows i of each of n_tiles tiles
// (entry, first, count), at most 64 rows a tile, by expert k in the slot of the entry: gate's
// weights from word gate_weights on, scales and biases from the values gate_scales and gate_biases
// on, up's likewise. x (.., in_dim), rows (n), hidden (n, out_dim). With Biased, row
// experts[k] of gate_bias and up_bias (n_biased, out_dim) is added to the products of tile k. Rows of
// a tile without a slot stay. A threadgroup per 64 rows of gate and of up (128 of up without a gate)
// and tile, row tiles first.
/// @elements slabs 2 * n_slabs
/// @elements tiles 3 * n_tiles
/// @elements x n > 0 ? (maxof(rows) + 1) * in_dim : 0
/// @elements rows n
/// @elements experts n_biased > 0 ? n_tiles : 0
/// @elements gate_bias Gated * n_biased * out_dim
/// @elements up_bias n_biased * out_dim
/// @elements hidden n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid n_tiles * ceil_div(out_dim, Gated != 0 ? 64 : 128) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require Biased <= 1 && (Biased == 1 || n_biased == 0) && (Biased == 0 || n_biased > 0)
/// @require Activation <= 3 && Gated <= 1 && (Gated == 1 || Activation != 1)
/// @require out_dim > 0
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require grid == n_tiles * ceil_div(out_dim, Gated != 0 ? 64 : 128) * 128
/// @require gate_weights % 4 == 0 && up_weights % 4 == 0
/// @require Gated == 0 || gate_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require Gated == 0 || ceil_div(gate_scales + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
/// @require Gated == 0 || ceil_div(gate_biases + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
/// @require up_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(up_scales + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
/// @require ceil_div(up_biases + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
template <typename T>
kernel void gate_up(device const ulong2* slabs [[buffer(0)]],
                    device const uint* tiles [[buffer(1)]],
                    device const float4* x [[buffer(2)]],
                    device const uint* rows [[buffer(3)]],
                    device const uint* experts [[buffer(4)]],
                    device const float* gate_bias [[buffer(5)]],
                    device const float* up_bias [[buffer(6)]],
                    device float* hidden [[buffer(7)]],
                    constant GroupedGateUpArgs& args [[buffer(8)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float4 x_tile[kTokenTile];
  const uint tile_rows = Gated != 0 ? kHalfRows : kTileRows;
  const uint row_tiles = (args.out_dim + tile_rows - 1) / tile_rows;
  const uint k = group / row_tiles;
  const GroupedTile tile = grouped_tile(tiles, k, args.n);
  device const uint* slot = slot_at(slabs, args.n_slabs, tile.entry, args.words);
  if (slot == nullptr || tile.count == 0) return;  // the whole threadgroup
  const TilePlace place = tile_place(thread_index);
  const bool is_gate = Gated != 0 && place.own < kHalfRows;
  HiddenSink sink;
  sink.hidden = hidden;
  sink.out_dim = args.out_dim;
  sink.row = group % row_tiles * tile_rows;
  sink.first = tile.first;
  sink.numbers = activation_numbers(args.limit, args.alpha, args.up_add);
  sink.gate_bias = gate_bias;
  sink.up_bias = up_bias;
  sink.experts = experts;
  sink.tile = k;
  sink.n_biased = args.n_biased;
  const uint row = min(sink.row + place.own % tile_rows, args.out_dim - 1);
  CodeRow<T> source =
      slot_row<T>(slot, is_gate ? args.gate_weights : args.up_weights,
                  is_gate ? args.gate_scales : args.up_scales,
                  is_gate ? args.gate_biases : args.up_biases, row, args.in_dim, args.group_size);
  const uint token_at = rows[tile.first + min(place.token, tile.count - 1)];
  TokenRow token =
      token_row((device const float*)x + ulong(token_at) * args.in_dim, args.in_dim, place);
  run_tile(source, token, sink, place, args.in_dim, tile.count, w_tile, x_tile);
}

// out (.., out_dim) at the places of a tile's rows, with a bias (out_dim) where it is said to be.
struct ScatterSink {
  device float* out;
  device const float* bias;
  device const uint* experts;
  uint tile, n_biased;
  device const uint* places;  // from the tile's first row on
  uint out_dim, row;
};

inline void store_sums(
    thread const ScatterSink& sink, TilePlace place, uint token, float4 first, float4 second) {
  device float* to = sink.out + ulong(sink.places[token]) * sink.out_dim;
  const uint row = sink.row + place.row4 * 4;
  if (Biased != 0) {
    device const float* bias =
        sink.bias + bias_at(sink.experts[sink.tile], sink.n_biased, sink.out_dim);
    first = with_bias(first, bias, row, sink.out_dim);
    second = with_bias(second, bias, row + kHalfRows, sink.out_dim);
  }
  store_rows(to, row, sink.out_dim, first);
  store_rows(to, row + kHalfRows, sink.out_dim, second);
}

// out[places[i]] = down_k hidden[i] for the rows i of each tile, plus row experts[k] of bias
// (n_biased, out_dim) with Biased; tiles and slots as above. hidden (n, in_dim), places
// (n) without repetition, out (.., out_dim): other rows stay. A threadgroup per 128 rows of down and
// tile, row tiles first.
/// @elements slabs 2 * n_slabs
/// @elements tiles 3 * n_tiles
/// @elements hidden n * in_dim
/// @elements places n
/// @elements experts n_biased > 0 ? n_tiles : 0
/// @elements bias n_biased * out_dim
/// @elements out n > 0 ? (maxof(places) + 1) * out_dim : 0
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid n_tiles * ceil_div(out_dim, 128) * 128
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require out_dim > 0
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require Biased <= 1 && (Biased == 1 || n_biased == 0) && (Biased == 0 || n_biased > 0)
/// @require grid == n_tiles * ceil_div(out_dim, 128) * 128
/// @require down_weights % 4 == 0
/// @require down_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(down_scales + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
/// @require ceil_div(down_biases + out_dim * in_dim / group_size, (4 / sizeof(T))) <= words
template <typename T>
kernel void down(device const ulong2* slabs [[buffer(0)]],
                 device const uint* tiles [[buffer(1)]],
                 device const float4* hidden [[buffer(2)]],
                 device const uint* places [[buffer(3)]],
                 device const uint* experts [[buffer(4)]],
                 device const float* bias [[buffer(5)]],
                 device float* out [[buffer(6)]],
                 constant GroupedDownArgs& args [[buffer(7)]],
                 uint group [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 w_tile[kWeightTile];
  threadgroup float4 x_tile[kTokenTile];
  const uint row_tiles = (args.out_dim + kTileRows - 1) / kTileRows;
  const uint k = group / row_tiles;
  const GroupedTile tile = grouped_tile(tiles, k, args.n);
  device const uint* slot = slot_at(slabs, args.n_slabs, tile.entry, args.words);
  if (slot == nullptr || tile.count == 0) return;  // the whole threadgroup
  const TilePlace place = tile_place(thread_index);
  ScatterSink sink;
  sink.out = out;
  sink.bias = bias;
  sink.experts = experts;
  sink.tile = k;
  sink.n_biased = args.n_biased;
  sink.places = places + tile.first;
  sink.out_dim = args.out_dim;
  sink.row = group % row_tiles * kTileRows;
  const uint row = min(sink.row + place.own, args.out_dim - 1);
  CodeRow<T> source = slot_row<T>(slot, args.down_weights, args.down_scales, args.down_biases, row,
                                  args.in_dim, args.group_size);
  const uint token_at = tile.first + min(place.token, tile.count - 1);
  TokenRow token =
      token_row((device const float*)hidden + ulong(token_at) * args.in_dim, args.in_dim, place);
  run_tile(source, token, sink, place, args.in_dim, tile.count, w_tile, x_tile);
}

template [[host_name("grouped_gate_up_bf16_f32")]] kernel decltype(gate_up<bf16>) gate_up<bf16>;
template [[host_name("grouped_gate_up_f16_f32")]] kernel decltype(gate_up<half>) gate_up<half>;
template [[host_name("grouped_gate_up_f32_f32")]] kernel decltype(gate_up<float>) gate_up<float>;
template [[host_name("grouped_down_bf16_f32")]] kernel decltype(down<bf16>) down<bf16>;
template [[host_name("grouped_down_f16_f32")]] kernel decltype(down<half>) down<half>;
template [[host_name("grouped_down_f32_f32")]] kernel decltype(down<float>) down<float>;
