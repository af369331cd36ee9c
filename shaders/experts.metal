// Rows of several routed experts in one dispatch, one row each, read straight from the slots that
// hold them: a token of decode takes two launches for all its experts, however many.
#include "arguments.h"
#include "codes.h"
#include "slabs.h"

constant constexpr uint kExpertRows = 8;  // of W a threadgroup, a SIMD group each

// w . x for row `row` of the matrix in a slot whose weights start at word weights_at, whose scales
// and biases at scales_at and biases_at (bf16 values). In all lanes; by the whole threadgroup.
inline float slot_row_dot(device const uint* slot,
                          uint weights_at,
                          uint scales_at,
                          uint biases_at,
                          bool live,
                          uint row,
                          device const float* x,
                          uint in_dim,
                          uint group_size,
                          threadgroup float4* tile,
                          threadgroup float* totals,
                          uint lane,
                          uint simdgroup,
                          uint simdgroups) {
  const ulong safe_row = live ? row : 0;
  const ulong group_at = safe_row * (in_dim / group_size);
  device const bf16* halves = (device const bf16*)slot;
  return chunked_row_dot(slot + weights_at + safe_row * (in_dim / 32) * Bits,
                         halves + scales_at + group_at, halves + biases_at + group_at, live, x,
                         in_dim, group_size, tile, totals, lane, simdgroup, simdgroups);
}

// For each of n experts k: hidden[k] = silu(gate_k x[rows[k]]) * (up_k x[rows[k]]). Expert k is in
// the slot of entries[k]: gate's weights from word gate_weights on, scales and biases from the bf16
// values gate_scales and gate_biases on, up's likewise. x (.., in_dim), rows (n), hidden (n,
// out_dim). The hidden row of an expert without a slot stays as it is. A SIMD group per row of gate
// and up, eight a threadgroup.
/// @elements slabs 2 * n_slabs
/// @elements entries n
/// @elements x (maxof(rows) + 1) * in_dim
/// @elements rows n
/// @elements hidden n * out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid n * ceil_div(out_dim, 8) * 256
/// @require n > 0
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require grid == n * ceil_div(out_dim, 8) * 256
/// @require gate_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(gate_scales + out_dim * in_dim / group_size, 2) <= words
/// @require ceil_div(gate_biases + out_dim * in_dim / group_size, 2) <= words
/// @require up_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(up_scales + out_dim * in_dim / group_size, 2) <= words
/// @require ceil_div(up_biases + out_dim * in_dim / group_size, 2) <= words
kernel void experts_gate_up_bf16_f32(device const ulong2* slabs [[buffer(0)]],
                                     device const uint* entries [[buffer(1)]],
                                     device const float* x [[buffer(2)]],
                                     device const uint* rows [[buffer(3)]],
                                     device float* hidden [[buffer(4)]],
                                     constant ExpertsGateUpArgs& args [[buffer(5)]],
                                     uint group [[threadgroup_position_in_grid]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                                     uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float4 tile[kTileSize];
  threadgroup float totals[kTileChunks];
  const uint tiles = (args.out_dim + kExpertRows - 1) / kExpertRows;
  const uint k = group / tiles;
  const uint row = group % tiles * kExpertRows + simdgroup;
  const bool live = row < args.out_dim;
  device const uint* slot = slot_at(slabs, args.n_slabs, entries[k], args.words);
  if (slot == nullptr) return;  // the whole threadgroup
  device const float* from = x + ulong(rows[k]) * args.in_dim;
  const float gate =
      slot_row_dot(slot, args.gate_weights, args.gate_scales, args.gate_biases, live, row, from,
                   args.in_dim, args.group_size, tile, totals, lane, simdgroup, simdgroups);
  const float up =
      slot_row_dot(slot, args.up_weights, args.up_scales, args.up_biases, live, row, from,
                   args.in_dim, args.group_size, tile, totals, lane, simdgroup, simdgroups);
  if (live && lane == 0) hidden[ulong(k) * args.out_dim + row] = silu(gate) * up;
}

// For each of n experts k: out[places[k]] = down_k hidden[k]; slots as above. hidden (n, in_dim),
// places (n) without repetition, out (.., out_dim): other rows stay. A SIMD group per row of down,
// eight a threadgroup.
/// @elements slabs 2 * n_slabs
/// @elements entries n
/// @elements hidden n * in_dim
/// @elements places n
/// @elements out (maxof(places) + 1) * out_dim
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid n * ceil_div(out_dim, 8) * 256
/// @require n > 0
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require in_dim % group_size == 0
/// @require grid == n * ceil_div(out_dim, 8) * 256
/// @require down_weights + out_dim * (in_dim / 32) * Bits <= words
/// @require ceil_div(down_scales + out_dim * in_dim / group_size, 2) <= words
/// @require ceil_div(down_biases + out_dim * in_dim / group_size, 2) <= words
kernel void experts_down_bf16_f32(device const ulong2* slabs [[buffer(0)]],
                                  device const uint* entries [[buffer(1)]],
                                  device const float* hidden [[buffer(2)]],
                                  device const uint* places [[buffer(3)]],
                                  device float* out [[buffer(4)]],
                                  constant ExpertsDownArgs& args [[buffer(5)]],
                                  uint group [[threadgroup_position_in_grid]],
                                  uint lane [[thread_index_in_simdgroup]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                                  uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float4 tile[kTileSize];
  threadgroup float totals[kTileChunks];
  const uint tiles = (args.out_dim + kExpertRows - 1) / kExpertRows;
  const uint k = group / tiles;
  const uint row = group % tiles * kExpertRows + simdgroup;
  const bool live = row < args.out_dim;
  device const uint* slot = slot_at(slabs, args.n_slabs, entries[k], args.words);
  if (slot == nullptr) return;  // the whole threadgroup
  const float dot = slot_row_dot(slot, args.down_weights, args.down_scales, args.down_biases, live,
                                 row, hidden + ulong(k) * args.in_dim, args.in_dim, args.group_size,
                                 tile, totals, lane, simdgroup, simdgroups);
  if (live && lane == 0) out[ulong(places[k]) * args.out_dim + row] = dot;
}
