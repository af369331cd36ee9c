// Rows of several routed experts in one dispatch, one row each, read straight from the slots that
// hold them: a token of decode takes two launches for all its experts, however many.
#include "activation.h"
#include "arguments.h"
#include "expert_bias.h"
#include "row_dots.h"
#include "slabs.h"

constant constexpr uint kGatedRows = 2;  // of gate and of up a threadgroup; of up alone twice that
constant constexpr uint kDownRows = 4;   // of down a SIMD group; two a threadgroup

// For each of n experts k: hidden[k] = activation(gate_k x[rows[k]], up_k x[rows[k]]). Expert k is in
// the slot of entries[k]: gate's weights from word gate_weights on, scales and biases from the bf16
// values gate_scales and gate_biases on, up's likewise. x (.., in_dim), rows (n), hidden (n,
// out_dim). With Biased, row experts[k] of gate_bias and up_bias (n_biased, out_dim) is
// added to the products. The hidden row of an expert without a slot stays as it is. Two rows of gate
// and of up a threadgroup, or four of up.
/// @elements slabs 2 * n_slabs
/// @elements entries n
/// @elements x (maxof(rows) + 1) * in_dim
/// @elements rows n
/// @elements experts n_biased > 0 ? n : 0
/// @elements gate_bias Gated * n_biased * out_dim
/// @elements up_bias n_biased * out_dim
/// @elements hidden n * out_dim
/// @threadgroup 128
/// @default_threadgroup 128
/// @grid n * ceil_div(out_dim, Gated != 0 ? 2 : 4) * 128
/// @require Biased <= 1 && (Biased == 1 || n_biased == 0) && (Biased == 0 || n_biased > 0)
/// @require n > 0
/// @require Activation <= 3 && Gated <= 1 && (Gated == 1 || Activation != 1)
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size == 32 || group_size == 64 || group_size == 128
/// @require in_dim % group_size == 0
/// @require grid == n * ceil_div(out_dim, Gated != 0 ? 2 : 4) * 128
/// @require gate_weights % 4 == 0 && up_weights % 4 == 0
/// @require Gated == 0 || gate_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require Gated == 0 || ceil_div(gate_scales + out_dim * in_dim / group_size, 2) <= words
/// @require Gated == 0 || ceil_div(gate_biases + out_dim * in_dim / group_size, 2) <= words
/// @require up_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(up_scales + out_dim * in_dim / group_size, 2) <= words
/// @require ceil_div(up_biases + out_dim * in_dim / group_size, 2) <= words
kernel void experts_gate_up_bf16_f32(device const ulong2* slabs [[buffer(0)]],
                                     device const uint* entries [[buffer(1)]],
                                     device const float4* x [[buffer(2)]],
                                     device const uint* rows [[buffer(3)]],
                                     device const uint* experts [[buffer(4)]],
                                     device const float* gate_bias [[buffer(5)]],
                                     device const float* up_bias [[buffer(6)]],
                                     device float* hidden [[buffer(7)]],
                                     constant ExpertsGateUpArgs& args [[buffer(8)]],
                                     uint group [[threadgroup_position_in_grid]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float parts[kParts * 2 * kGatedRows * kSimdWidth];
  const uint tile_rows = Gated != 0 ? kGatedRows : 2 * kGatedRows;
  const uint tiles = (args.out_dim + tile_rows - 1) / tile_rows;
  const uint k = group / tiles;
  const uint own = group % tiles * tile_rows;
  device const uint* slot = slot_at(slabs, args.n_slabs, entries[k], args.words);
  if (slot == nullptr) return;  // the whole threadgroup
  const Rows part =
      part_of(rows_at(own, tile_rows, args.out_dim, args.in_dim, args.group_size), simdgroup);
  const Codes<bf16> matrices[2] = {
      codes_in(slot, args.gate_weights, args.gate_scales, args.gate_biases),
      codes_in(slot, args.up_weights, args.up_scales, args.up_biases)};
  float sums[2 * kGatedRows][1] = {};
  if (Gated != 0) {
    add_dots<2, kGatedRows, 1>(part, matrices, x, rows[k], 1, lane, sums);
  } else {
    const Codes<bf16> alone[1] = {matrices[1]};
    add_dots<1, 2 * kGatedRows, 1>(part, alone, x, rows[k], 1, lane, sums);
  }
  share_parts(sums, parts, lane, simdgroup);
  for (uint r = simdgroup; r < tile_rows; r += kParts) {
    float gate = part_sum(parts, 2 * kGatedRows, r, lane);
    float up = Gated != 0 ? part_sum(parts, 2 * kGatedRows, kGatedRows + r, lane) : gate;
    const uint row = part.first + r;
    if (lane == 0 && row >= own && row < args.out_dim) {
      if (Biased != 0) {
        const ulong at = bias_at(experts[k], args.n_biased, args.out_dim) + row;
        if (Gated != 0) gate += gate_bias[at];
        up += up_bias[at];
      }
      hidden[ulong(k) * args.out_dim + row] =
          activation(gate, up, activation_numbers(args.limit, args.alpha, args.up_add));
    }
  }
}

// For each of n experts k: out[places[k]] = down_k hidden[k], plus row experts[k] of bias (n_biased,
// out_dim) with Biased; slots as above. hidden (n, in_dim), places (n) without repetition,
// out (.., out_dim): other rows stay. Four rows of down a SIMD group, two SIMD groups a threadgroup.
/// @elements slabs 2 * n_slabs
/// @elements entries n
/// @elements hidden n * in_dim
/// @elements places n
/// @elements experts n_biased > 0 ? n : 0
/// @elements bias n_biased * out_dim
/// @elements out (maxof(places) + 1) * out_dim
/// @threadgroup 64
/// @default_threadgroup 64
/// @grid n * ceil_div(out_dim, 8) * 64
/// @require Biased <= 1 && (Biased == 1 || n_biased == 0) && (Biased == 0 || n_biased > 0)
/// @require n > 0
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size == 32 || group_size == 64 || group_size == 128
/// @require in_dim % group_size == 0
/// @require grid == n * ceil_div(out_dim, 8) * 64
/// @require down_weights % 4 == 0
/// @require down_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(down_scales + out_dim * in_dim / group_size, 2) <= words
/// @require ceil_div(down_biases + out_dim * in_dim / group_size, 2) <= words
kernel void experts_down_bf16_f32(device const ulong2* slabs [[buffer(0)]],
                                  device const uint* entries [[buffer(1)]],
                                  device const float4* hidden [[buffer(2)]],
                                  device const uint* places [[buffer(3)]],
                                  device const uint* experts [[buffer(4)]],
                                  device const float* bias [[buffer(5)]],
                                  device float* out [[buffer(6)]],
                                  constant ExpertsDownArgs& args [[buffer(7)]],
                                  uint group [[threadgroup_position_in_grid]],
                                  uint lane [[thread_index_in_simdgroup]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint tiles = (args.out_dim + 2 * kDownRows - 1) / (2 * kDownRows);
  const uint k = group / tiles;
  const uint own = (group % tiles * 2 + simdgroup) * kDownRows;
  device const uint* slot = slot_at(slabs, args.n_slabs, entries[k], args.words);
  if (slot == nullptr || own >= args.out_dim) return;  // the whole SIMD group
  const Rows part = rows_at(own, kDownRows, args.out_dim, args.in_dim, args.group_size);
  const Codes<bf16> matrix[1] = {
      codes_in(slot, args.down_weights, args.down_scales, args.down_biases)};
  float sums[kDownRows][1] = {};
  add_dots<1, kDownRows, 1>(part, matrix, hidden, k, 1, lane, sums);
  for (uint r = 0; r < kDownRows; ++r) {
    float sum = simd_sum(sums[r][0]);
    const uint row = part.first + r;
    if (lane == 0 && row >= own && row < args.out_dim) {
      if (Biased != 0) sum += bias[bias_at(experts[k], args.n_biased, args.out_dim) + row];
      out[ulong(places[k]) * args.out_dim + row] = sum;
    }
  }
}
