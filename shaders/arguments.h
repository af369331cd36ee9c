// The numbers that kernels of many arguments take, a struct each. The host fills the same structs
// (csrc/ops/gpu/arguments.h). Fields are uint or float, so that there is no padding.
#pragma once

struct QMatvecArgs {
  uint out_dim, in_dim, group_size, n, has_bias;
};

struct QMatvecsArgs {  // of up to three matrices
  uint first_rows, second_rows, third_rows, in_dim, group_size;
  uint first_biased, second_biased, third_biased;
};

struct QGateUpArgs {
  uint out_dim, in_dim, group_size, n;
  float limit, alpha, up_add;
};

struct ActivateArgs {
  uint n;
  float limit, alpha, up_add;
};

struct QMatmulArgs {
  uint out_dim, in_dim, group_size, n, has_bias;
};

struct AttentionRowsArgs {
  uint n, position, heads, kv_heads, head_dim, rotary_dim, norm_q, norm_k, norm_v;
  float eps, rope_scale;
};

struct AttentionDecodeArgs {
  uint heads, heads_per_kv, kv_dim, from, kv_len, split, splits, ends;
  uint rotary_dim, norm_q, norm_k;
  uint extents, last, keys_at, values_at, last_keys_at, last_values_at;
  float scale, eps, rope_scale;
};

struct AttentionMergeArgs {
  uint heads, head_dim, splits, n_sinks;
};

struct AttentionWideArgs {
  uint heads, heads_per_kv, kv_dim, value_dim, values_are_keys, from, kv_len;
  uint split, splits, first_split, parts, ends;
  uint extents, last, keys_at, values_at, last_keys_at, last_values_at;
  float scale;
};

struct AttentionPrefillArgs {
  uint n, position, heads, heads_per_kv, kv_dim, value_dim, window, has_sinks;
  uint first_tile, tiles, splits, split, first_split, parts;
  uint key_begin, key_end, resumes, ends;
  uint extents, last, keys_at, values_at, last_keys_at, last_values_at;
  float scale;
};

struct LatentRowsArgs {
  uint n, position, heads, rank, nope_dim, rope_dim, query_step;
  float query_growth, eps, rope_scale;
};

struct AbsorbKeysArgs {
  uint n, heads, rank, width, nope_dim, q_head, kv_head;
};

struct AbsorbValuesArgs {
  uint n, heads, rank, nope_dim, value_dim;
};

struct GatedDeltaNetArgs {
  uint n, key_heads, value_heads, value_dim, stride;
};

struct StateSpaceArgs {
  uint n, heads, n_groups, head_dim, stride;
};

struct MoeCombineArgs {
  uint n, dim, top_k, has_shared, has_gate, adds;
};

struct MoeCombineNormArgs {
  uint n, dim, top_k, has_shared, has_gate;
  float eps;
};

struct RouterArgs {
  uint n, n_experts, top_k, normalise;
  uint score, n_groups, top_groups, has_bias, has_factors;
  float sum_eps, factor;
};

struct FindExpertsArgs {
  uint n_experts, top_k, normalise;  // and more of a router's
  uint score, n_groups, top_groups, has_bias, has_factors;
  float sum_eps, factor;
  uint dim, n_slabs, words;
};

struct ExpertsGateUpArgs {
  uint out_dim, in_dim, group_size, n, n_slabs, words;
  uint gate_weights, gate_scales, gate_biases, up_weights, up_scales, up_biases;
  uint n_biased;  // experts whose outputs have biases
  float limit, alpha, up_add;
};

struct ExpertsDownArgs {
  uint out_dim, in_dim, group_size, n, n_slabs, words;
  uint down_weights, down_scales, down_biases, n_biased;
};

struct GroupedGateUpArgs {
  uint out_dim, in_dim, group_size, n, n_tiles, n_slabs, words;
  uint gate_weights, gate_scales, gate_biases, up_weights, up_scales, up_biases;
  uint n_biased;
  float limit, alpha, up_add;
};

struct GroupedDownArgs {
  uint out_dim, in_dim, group_size, n, n_tiles, n_slabs, words;
  uint down_weights, down_scales, down_biases, n_biased;
};
