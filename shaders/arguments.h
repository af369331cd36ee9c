// The numbers that kernels of many arguments take, a struct each. The host fills the same structs
// (csrc/ops/gpu/arguments.h). Fields are uint or float, so that there is no padding.
#pragma once

struct QMatvecArgs {
  uint out_dim, in_dim, group_size, n, has_bias;
};

struct QGateUpArgs {
  uint out_dim, in_dim, group_size, n;
};

struct QMatmulArgs {
  uint out_dim, in_dim, group_size, n, has_bias;
};

struct NormRopeArgs {
  uint n, heads, head_dim, rotary_dim, x_stride, out_stride, position, normalise;
  float eps, rope_scale;
};

struct AttentionDecodeArgs {
  uint heads, heads_per_kv, head_dim, kv_dim, kv_len, chunks;
  float scale;
};

struct AttentionPrefillArgs {
  uint n, position, heads, heads_per_kv, head_dim, kv_dim;
  float scale;
};

struct GatedDeltaNetArgs {
  uint n, key_heads, value_heads, value_dim, stride;
};

struct MoeCombineArgs {
  uint n, dim, top_k, has_shared, has_gate;
};

struct FindExpertsArgs {
  uint n_experts, top_k, dim, n_slabs, words;
};

struct ExpertsGateUpArgs {
  uint out_dim, in_dim, group_size, n, n_slabs, words;
  uint gate_weights, gate_scales, gate_biases, up_weights, up_scales, up_biases;
};

struct ExpertsDownArgs {
  uint out_dim, in_dim, group_size, n, n_slabs, words;
  uint down_weights, down_scales, down_biases;
};

struct GroupedGateUpArgs {
  uint out_dim, in_dim, group_size, n, n_tiles, n_slabs, words;
  uint gate_weights, gate_scales, gate_biases, up_weights, up_scales, up_biases;
  float limit, alpha, up_add;
};

struct GroupedDownArgs {
  uint out_dim, in_dim, group_size, n, n_tiles, n_slabs, words;
  uint down_weights, down_scales, down_biases;
};
