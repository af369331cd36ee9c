// What the experts of a token gave, as one number.
#pragma once
#include "common.h"

// Column i of the sum over k < top_k of weights[k] * expert_out[k], and gate * shared where
// has_shared: weights (top_k), expert_out (top_k, dim), shared (dim).
inline float combined(device const float* weights,
                      device const float* expert_out,
                      uint top_k,
                      device const float* shared,
                      bool has_shared,
                      float gate,
                      uint dim,
                      uint i) {
  float sum = 0.0f;
  for (uint k = 0; k < top_k; ++k) sum = fma(weights[k], expert_out[ulong(k) * dim + i], sum);
  return has_shared ? fma(gate, shared[i], sum) : sum;
}
