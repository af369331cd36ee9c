// out = dequant(W) x for 4-bit W: forms that differ in the work split only.
#include "../affine.h"

// out = W x; W u32 (out_dim, in_dim / 8), scales, biases (out_dim, in_dim / group_size),
// x (in_dim), out (out_dim). The reference form: a thread per row, no cooperation.
/// @elements W out_dim * in_dim / 8
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup any
/// @default_threadgroup 64
/// @grid out_dim
/// @require group_size % 8 == 0
/// @require in_dim % group_size == 0
/// @require grid >= out_dim
kernel void dequant_matvec_4bit(device const uint* W [[buffer(0)]],
                                device const bf16* scales [[buffer(1)]],
                                device const bf16* biases [[buffer(2)]],
                                device const float* x [[buffer(3)]],
                                device float* out [[buffer(4)]],
                                constant uint& out_dim [[buffer(5)]],
                                constant uint& in_dim [[buffer(6)]],
                                constant uint& group_size [[buffer(7)]],
                                uint row [[thread_position_in_grid]]) {
  if (row >= out_dim) return;
  const PackedRow r = packed_row<4>(W, scales, biases, true, row, in_dim, group_size);
  float sum = 0.0f;
  for (GroupWalk walk = group_walk(0, 1, r.words_per_group); walk.at < r.n_words; advance(walk)) {
    const uint word = r.words[walk.at];
    const float scale = to_f32(r.scales[walk.group]);
    const float bias = to_f32(r.biases[walk.group]);
    device const float* columns = x + walk.at * 8;
    for (uint i = 0; i < 8; ++i)
      sum = fma(fma(float(word >> (4 * i) & 15u), scale, bias), columns[i], sum);
  }
  out[row] = sum;
}

// out = W x, shapes as dequant_matvec_4bit. A threadgroup per row, whose threads stride over the
// words of the row: for few rows of many columns.
/// @elements W out_dim * in_dim / 8
/// @elements scales out_dim * in_dim / group_size
/// @elements biases out_dim * in_dim / group_size
/// @elements x in_dim
/// @elements out out_dim
/// @threadgroup multiple of 32
/// @default_threadgroup 64
/// @grid out_dim * threads
/// @require group_size % 8 == 0
/// @require in_dim % group_size == 0
/// @require grid % threads == 0
/// @require groups >= out_dim
kernel void dequant_matvec_4bit_fast(device const uint* W [[buffer(0)]],
                                     device const bf16* scales [[buffer(1)]],
                                     device const bf16* biases [[buffer(2)]],
                                     device const float* x [[buffer(3)]],
                                     device float* out [[buffer(4)]],
                                     constant uint& out_dim [[buffer(5)]],
                                     constant uint& in_dim [[buffer(6)]],
                                     constant uint& group_size [[buffer(7)]],
                                     uint row [[threadgroup_position_in_grid]],
                                     uint thread_index [[thread_index_in_threadgroup]],
                                     uint threads [[threads_per_threadgroup]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                                     uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  if (row >= out_dim) return;  // the whole threadgroup
  const PackedRow r = packed_row<4>(W, scales, biases, true, row, in_dim, group_size);
  float sum = 0.0f;
  GroupWalk walk = group_walk(thread_index, threads, r.words_per_group);
  for (; walk.at < r.n_words; advance(walk)) {
    const uint word = r.words[walk.at];
    device const float* columns = x + walk.at * 8;
    float dot = 0.0f;  // the group's scale and bias are applied once a word
    float total = 0.0f;
    for (uint i = 0; i < 8; ++i) {
      dot = fma(float(word >> (4 * i) & 15u), columns[i], dot);
      total += columns[i];
    }
    sum = fma(to_f32(r.scales[walk.group]), dot, sum);
    sum = fma(to_f32(r.biases[walk.group]), total, sum);
  }
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  if (thread_index == 0) out[row] = sum;
}

// out[k] = W_k x_inputs[k] for K experts at once; x_inputs (K, in_dim), out (K, out_dim). Expert k
// has its W at w_offsets[k] (words), scales and biases at s_offsets[k] and b_offsets[k] (values).
// Threadgroup row_tile + k * num_row_tiles computes eight rows as dequant_matvec_4bit_v3 does.
/// @elements W maxof(w_offsets) + out_dim * in_dim / 8
/// @elements scales maxof(s_offsets) + out_dim * in_dim / group_size
/// @elements biases maxof(b_offsets) + out_dim * in_dim / group_size
/// @elements x_inputs ceil_div(groups, num_row_tiles) * in_dim
/// @elements out ceil_div(groups, num_row_tiles) * out_dim
/// @elements w_offsets ceil_div(groups, num_row_tiles)
/// @elements s_offsets ceil_div(groups, num_row_tiles)
/// @elements b_offsets ceil_div(groups, num_row_tiles)
/// @threadgroup 256
/// @default_threadgroup 256
/// @grid len(w_offsets) * num_row_tiles * 256
/// @require group_size % 8 == 0
/// @require in_dim % group_size == 0
/// @require num_row_tiles > 0
/// @require num_row_tiles == ceil_div(out_dim, 8)
/// @require groups % num_row_tiles == 0
kernel void dequant_matvec_4bit_batched(device const uint* W [[buffer(0)]],
                                        device const bf16* scales [[buffer(1)]],
                                        device const bf16* biases [[buffer(2)]],
                                        device const float* x_inputs [[buffer(3)]],
                                        device float* out [[buffer(4)]],
                                        constant uint& out_dim [[buffer(5)]],
                                        constant uint& in_dim [[buffer(6)]],
                                        constant uint& group_size [[buffer(7)]],
                                        device const uint* w_offsets [[buffer(8)]],
                                        device const uint* s_offsets [[buffer(9)]],
                                        device const uint* b_offsets [[buffer(10)]],
                                        constant uint& num_row_tiles [[buffer(11)]],
                                        uint group [[threadgroup_position_in_grid]],
                                        uint thread_index [[thread_index_in_threadgroup]],
                                        uint threads [[threads_per_threadgroup]],
                                        uint lane [[thread_index_in_simdgroup]],
                                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 tile[kTileColumns / 4];
  const uint k = group / num_row_tiles;
  const uint row = group % num_row_tiles * kRowsPerGroup + simdgroup;
  const bool live = row < out_dim;
  const PackedRow r = packed_row<4>(W + w_offsets[k], scales + s_offsets[k], biases + b_offsets[k],
                                    live, row, in_dim, group_size);
  const float dot =
      tiled_row_dot<4>(r, x_inputs + ulong(k) * in_dim, in_dim, tile, thread_index, threads, lane);
  if (live && lane == 0) out[ulong(k) * out_dim + row] = dot;
}
