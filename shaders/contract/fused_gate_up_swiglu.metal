// The first half of a gated feed-forward network in one pass over its input.
#include "../affine.h"

// out = silu(gate x) * (up x), both matrices 4-bit: u32 (out_dim, in_dim / 8) with scales and
// biases (out_dim, in_dim / group_size); x (in_dim), out (out_dim). A threadgroup per row of both
// matrices, its threads striding over the words, so that x is read once for the two.
/// @elements gate_W out_dim * in_dim / 8
/// @elements gate_scales out_dim * in_dim / group_size
/// @elements gate_biases out_dim * in_dim / group_size
/// @elements up_W out_dim * in_dim / 8
/// @elements up_scales out_dim * in_dim / group_size
/// @elements up_biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup multiple of 32
/// @default_threadgroup 64
/// @grid out_dim * threads
/// @require group_size % 8 == 0
/// @require in_dim % group_size == 0
/// @require grid % threads == 0
/// @require groups >= out_dim
kernel void fused_gate_up_swiglu(device const uint* gate_W [[buffer(0)]],
                                 device const bf16* gate_scales [[buffer(1)]],
                                 device const bf16* gate_biases [[buffer(2)]],
                                 device const uint* up_W [[buffer(3)]],
                                 device const bf16* up_scales [[buffer(4)]],
                                 device const bf16* up_biases [[buffer(5)]],
                                 device const float* x [[buffer(6)]],
                                 device float* out [[buffer(7)]],
                                 constant uint& out_dim [[buffer(8)]],
                                 constant uint& in_dim [[buffer(9)]],
                                 constant uint& group_size [[buffer(10)]],
                                 uint row [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]],
                                 uint threads [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                                 uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float2 scratch[kMaxSimdgroups];
  if (row >= out_dim) return;  // the whole threadgroup
  const PackedRow gate =
      packed_row<4>(gate_W, gate_scales, gate_biases, true, row, in_dim, group_size);
  const PackedRow up = packed_row<4>(up_W, up_scales, up_biases, true, row, in_dim, group_size);
  float2 sum = float2(0.0f, 0.0f);  // gate, up
  GroupWalk walk = group_walk(thread_index, threads, gate.words_per_group);
  for (; walk.at < gate.n_words; advance(walk)) {
    const uint gate_word = gate.words[walk.at];
    const uint up_word = up.words[walk.at];
    device const float* columns = x + walk.at * 8;
    float2 dot = float2(0.0f, 0.0f);
    float total = 0.0f;
    for (uint i = 0; i < 8; ++i) {
      const float value = columns[i];
      dot.x = fma(float(gate_word >> (4 * i) & 15u), value, dot.x);
      dot.y = fma(float(up_word >> (4 * i) & 15u), value, dot.y);
      total += value;
    }
    const float2 scale = float2(to_f32(gate.scales[walk.group]), to_f32(up.scales[walk.group]));
    const float2 bias = float2(to_f32(gate.biases[walk.group]), to_f32(up.biases[walk.group]));
    sum = fma(scale, dot, fma(bias, float2(total, total), sum));
  }
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  if (thread_index == 0) out[row] = silu(sum.x) * sum.y;
}
