// Biases of the outputs of a layer's experts, (n_biased, out_dim), which are no part of their slots.
#pragma once
#include "common.h"

// 1: there are some, of n_biased experts.
/// @default 0
constant uint Biased [[function_constant(13)]];

// Where those of an expert begin. A number that was chosen by a device is not to be trusted.
inline ulong bias_at(uint expert, uint n_biased, uint out_dim) {
  return ulong(min(expert, n_biased - 1)) * out_dim;
}

// Rows row .. row + 3 of them, as far as there are, added to `values`.
inline float4 with_bias(float4 values, device const float* bias, uint row, uint out_dim) {
  for (uint i = 0; i < 4; ++i)
    if (row + i < out_dim) values[i] += bias[row + i];
  return values;
}
