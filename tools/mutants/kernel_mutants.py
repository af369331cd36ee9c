"""Ways to break the kernels, each of which a test of `tests/kernels` must notice.

The first `old` behind `anchor` in the file becomes `new`. Barriers are not listed: the driver
removes every one of them in turn.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One edit of one shader file; `anchor` finds the function."""

    file: str
    anchor: str
    old: str
    new: str


MUTANTS = [
    # elementwise
    Mutant("elementwise.metal", "residual_add(", "a[i] + b[i]", "a[i] - b[i]"),
    Mutant("elementwise.metal", "residual_add(", "i >= dim", "i >= dim - 1"),
    Mutant("elementwise.metal", "sigmoid_gate(", "x[i] *= sigmoid", "x[i] = sigmoid"),
    Mutant("elementwise.metal", "swiglu_fused(", "silu(gate[i]) * up", "silu(up[i]) * gate"),
    Mutant("elementwise.metal", "swiglu_fused_batched(", "i >= K * dim", "i >= dim"),
    Mutant("elementwise.metal", "swiglu_fused_vec4(", "silu(g.w)", "silu(g.z)"),
    Mutant("common.h", "sigmoid(", "x >= 0.0f ? 1.0f : e", "1.0f"),
    Mutant("common.h", "sigmoid(", "-fabs(x)", "x"),  # overflows
    Mutant("common.h", "log1p_unit(", "u == 1.0f ? e : ", ""),  # 0 / 0
    Mutant("common.h", "softplus(", "max(x, 0.0f) + log1p_unit", "log1p_unit"),
    Mutant("common.h", "of_simdgroups(", "lane < simdgroups", "lane + 1 < simdgroups"),
    Mutant("common.h", "threadgroup_max(", "-INFINITY", "0.0f"),
    # matrices
    Mutant("affine.h", "packed_row(", "scales + ulong(live ? row : 0)", "scales + ulong(0)"),
    Mutant("affine.h", "advance(", "walk.group += 1", "walk.group += 0"),
    Mutant(
        "affine.h",
        "advance(",
        "walk.rest < walk.units_per_group",
        "walk.rest <= walk.units_per_group",
    ),
    Mutant(
        "affine.h", "tiled_row_dot(", "min(first_word + n / per_word, row.n_words)", "row.n_words"
    ),
    Mutant("affine.h", "tiled_row_dot(", "bias * value", "scale * value"),
    Mutant("affine.h", "tiled_row_dot(", "begin += kTileColumns", "begin += in_dim"),
    Mutant("matvec_q4.metal", "dequant_matvec_4bit(", "i < 8", "i < 7"),
    Mutant("matvec_q4.metal", "dequant_matvec_4bit_fast(", "total += columns[i]", "total += 0.0f"),
    Mutant(
        "matvec_q4.metal",
        "dequant_matvec_4bit_fast(",
        "group_walk(thread_index, threads,",
        "group_walk(thread_index, 256,",
    ),
    Mutant(
        "matvec_q4.metal",
        "dequant_matvec_4bit_v3(",
        "group * kRowsPerGroup + simdgroup",
        "group * kRowsPerGroup + simdgroup % 4",
    ),
    Mutant(
        "matvec_q4.metal",
        "dequant_matvec_4bit_batched(",
        "biases + b_offsets[k]",
        "biases + s_offsets[k]",
    ),
    Mutant(
        "matvec_q4.metal",
        "dequant_matvec_4bit_batched(",
        "x_inputs + ulong(k) * in_dim",
        "x_inputs",
    ),
    Mutant("matvec_q4_wide.metal", "dequant_matvec_4bit_v4(", "word & 0xf00u", "word & 0xf0u"),
    Mutant("matvec_q4_wide.metal", "dequant_matvec_4bit_v4(", "127u - 4u", "127u - 3u"),
    Mutant("matvec_q4_wide.metal", "dequant_matvec_4bit_v5(", "lane & kHalfSimd", "0"),
    Mutant("matvec_q4_wide.metal", "dequant_matvec_4bit_v5(", "walk.rest * kSegment", "0"),
    Mutant(
        "matvec_q4_wide.metal",
        "dequant_matvec_4bit_v5(",
        "inside && in_group < group_size",
        "inside",
    ),
    Mutant("column_tile.h", "load_chunks(", "totals[at] = total", "totals[at] = value"),
    Mutant("matvec_q2_q8.metal", "dequant_matvec_2bit(", "row < out_dim", "row + 1 < out_dim"),
    Mutant("matvec_q2_q8.metal", "dequant_matvec_8bit_v3(", "tiled_row_dot<8>", "tiled_row_dot<4>"),
    Mutant(
        "fused_gate_up_swiglu.metal",
        "fused_gate_up_swiglu(",
        "silu(sum.x) * sum.y",
        "silu(sum.y) * sum.x",
    ),
    Mutant(
        "fused_gate_up_swiglu.metal",
        "fused_gate_up_swiglu(",
        "up.biases[walk.group]",
        "gate.biases[walk.group]",
    ),
    Mutant("codes.h", "codes8(", "shift + 8 * Bits > 32", "shift + 8 * Bits > 40"),
    Mutant("codes.h", "chunked_row_dot(", "chunk / chunks_per_group", "chunk / 2"),
    Mutant("experts.metal", "slot_of(", "return s3", "return s2"),
    Mutant("experts.metal", "slot_row_dot(", "halves + biases_at", "halves + scales_at"),
    Mutant("experts.metal", "experts_gate_up_bf16_f32(", "silu(gate) * up", "silu(up) * gate"),
    Mutant("experts.metal", "experts_gate_up_bf16_f32(", "ulong(rows[k])", "ulong(k)"),
    Mutant("experts.metal", "experts_down_bf16_f32(", "ulong(places[k])", "ulong(k)"),
    Mutant("qmatvec.metal", "qmatvec_f16_f32(", "has_bias != 0", "has_bias == 0"),
    Mutant("qmatvec.metal", "qmatvec_bf16_f32(", "scales + group_at", "biases + group_at"),
    Mutant("qmatvec.metal", "qmatvec_f32_f32(", "lane == 0", "lane == 1 && row > 0"),
    Mutant("matvec.metal", "row_dot(", "; i < n; i += 32", "; i + 1 < n; i += 32"),
    Mutant("matvec.metal", "matvec_f16_f32(", "bias[row]", "bias[0]"),
    Mutant("matvec.metal", "matvec_bf16_f32(", "row >= out_dim", "row + 1 >= out_dim"),
    Mutant("matvec.metal", "matvec_f32_f32(", "ulong(row) * in_dim", "ulong(row) * (in_dim & ~1u)"),
    Mutant("matmul_tile.h", "store_sums(", "token >= n", "token > n"),
    Mutant("matmul_tile.h", "store_sums(", "row >= out_dim", "row > out_dim"),
    Mutant("matmul_tile.h", "load_tokens(", "depth + d < in_dim", "true"),
    Mutant("matmul_tile.h", "multiply_tiles(", "d < kDepth", "d < kDepth - 1"),
    Mutant("matmul.metal", "load_weights(", "depth + d < in_dim", "true"),
    Mutant("qmatmul.metal", "load_codes(", "depth / group_size", "0"),
    Mutant("embed.metal", "embed_bf16_f32(", "tokens[i / dim]", "tokens[0]"),
    Mutant("embed.metal", "embed_f16_f32(", "i % dim", "0"),
    Mutant("embed.metal", "embed_f32_f32(", "i >= n * dim", "i >= dim"),
    Mutant("embed.metal", "qembed_bf16_f32(", "column / group_size", "0"),
    Mutant("embed.metal", "qembed_f16_f32(", "j < 8", "j < 7"),
    Mutant("embed.metal", "qembed_f32_f32(", "% (dim / 8) * 8", "% (dim / 8) * 8 / 2"),
    # attention
    Mutant("attention.metal", "attn_scores_batched(", "head / heads_per_kv", "head"),
    Mutant("attention.metal", "attn_scores_batched(", "dot * scale", "dot"),
    Mutant("attention.metal", "attn_scores_batched(", "p += num_seq_tgs", "p += seq_len"),
    Mutant("attention.metal", "attn_softmax_batched(", "row[p] - top", "row[p]"),
    Mutant("attention.metal", "attn_softmax_batched(", "p < seq_len", "p < seq_stride"),
    Mutant("attention.metal", "attn_values_batched(", "p < seq_len; ++p", "p + 1 < seq_len; ++p"),
    Mutant("attention_decode.metal", "attention_decode_f32(", "total * shrink", "total"),
    Mutant("attention_decode.metal", "attention_decode_f32(", "if (p < n)", "if (false)"),
    Mutant(
        "attention_prefill.metal",
        "attention_prefill_f32(",
        "kSimdWidth < visible",
        "kSimdWidth <= visible",
    ),
    Mutant(
        "attention_prefill.metal",
        "attention_prefill_f32(",
        "fma(*to, shrink[t], sum[t])",
        "*to + sum[t]",
    ),
    Mutant("attention_prefill.metal", "load_channels(", "channel + c < head_dim", "true"),
    # delta net
    Mutant("delta_net.metal", "conv1d_step(", "state += conv_dim", "state += 0"),
    Mutant("delta_net.metal", "conv1d_step(", "t + 2 < K", "t + 3 < K"),
    Mutant("delta_net.metal", "compute_decay_beta(", "sigmoid(beta[head])", "beta[head]"),
    Mutant("delta_net.metal", "gated_delta_net_step(", "g * k[key_at + j]", "k[key_at + j]"),
    Mutant("delta_net.metal", "gated_delta_net_step(", "head / k_heads_per_v", "head"),
    Mutant(
        "delta_net.metal",
        "gated_delta_net_step(",
        "const uint lanes = end - begin",
        "const uint lanes = 32",
    ),
    Mutant("delta_net_rows.metal", "conv1d_f32(", "const uint at = n + j", "const uint at = 1 + j"),
    Mutant("delta_net_rows.metal", "compute_decay_beta_f32(", "i % heads", "0"),
    Mutant("delta_net_rows.metal", "gated_delta_net_f32(", "s1[j] *= g", "s1[j] *= 1.0f"),
    Mutant("delta_net_rows.metal", "gated_delta_net_f32(", "lane == 0 && second", "lane == 0"),
    # norms
    Mutant("rms_norm.metal", "rms_norm_sum_sq(", "i += threads", "i += 2 * threads"),
    Mutant("rms_norm.metal", "rms_norm_apply(", "+ eps", "- eps"),
    Mutant("rms_norm.metal", "rms_norm_apply_bf16(", "to_f32(weight[i])", "float(weight[i])"),
    Mutant("rms_norm.metal", "rms_norm_qk(", "inv_scale * inv_scale", "inv_scale"),
    Mutant("rms_norm.metal", "rms_norm_qk(", "eps = 1e-6f", "eps = 1e-5f"),
    Mutant("rms_norm.metal", "void gated_norm(", "silu(z[i])", "z[i]"),
    Mutant("norm_rows.metal", "rms_norm_f32(", "x[first + i] * scale", "x[i] * scale"),
    Mutant("norm_rows.metal", "l2_norm_f32(", "rsqrt(sum + eps)", "rsqrt(sum / float(dim) + eps)"),
    Mutant(
        "norm_rows.metal", "norm_rope_f32(", "precise::cos(angle)", "precise::cos(-angle * 1.001f)"
    ),
    Mutant("norm_rows.metal", "norm_rope_f32(", "float(position + row)", "float(position)"),
    Mutant(
        "norm_rows.metal",
        "norm_rope_f32(",
        "i = rotary_dim + thread_index",
        "i = rotary_dim + 1 + thread_index",
    ),
    # experts
    Mutant("moe.metal", "moe_combine_residual(", "if (K > 9)", "if (K > 10)"),
    Mutant("moe.metal", "moe_combine_residual(", "params[16]", "params[15]"),
    Mutant("moe.metal", "weighted_sum(", "k < K", "k < min(K, 16u)"),
    Mutant("router.metal", "goes_before(", "return j < i", "return j > i"),
    Mutant("router.metal", "router_top_k_f32(", "lane < simdgroup ? count : 0", "0"),
    Mutant(
        "router.metal",
        "router_top_k_f32(",
        "placed += simd_sum(count)",
        "placed += 0 * simd_sum(count)",
    ),
    Mutant("router.metal", "router_top_k_f32(", "/= chosen", "/= 1.0f"),
    Mutant("rows.metal", "gather_rows_f32(", "rows[i / dim]", "i / dim"),
    Mutant("rows.metal", "scatter_rows_f32(", "rows[i / dim]", "i / dim"),
    Mutant("rows.metal", "moe_combine_f32(", "x[i] += sum", "x[i] = sum"),
    Mutant("rows.metal", "moe_combine_f32(", ": 1.0f, shared", ": 0.0f, shared"),
    Mutant("attention_decode.metal", "attention_merge_f32(", "sum / total", "sum"),
    Mutant(
        "attention_decode.metal",
        "attention_merge_f32(",
        "c < chunks; ++c) {",
        "c + 1 < chunks; ++c) {",
    ),
]
