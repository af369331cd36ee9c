// What the gated delta net's kernels are asked for.
#pragma once
#include <cstdint>

namespace moeflux::ops::cpu {

// Rows [begin, end) of the state of one value head, over n tokens of one sequence:
//   S = g S;  delta = beta (v - S k);  S += delta k^T;  out = S q        S (dv, dk)
// A row of the state depends on no other, so it stays in registers from the first token to the
// last.
struct DeltaRule {
  const float* state_in;  // (dv, dk)
  float* state_out;       // may be state_in
  const float *q, *k;     // (n, dk), `qk_stride` floats from one token to the next
  const float* v;         // (n, dv), v_stride
  const float *g, *beta;  // (n), gate_stride
  float* out;             // (n, dv), out_stride
  uint64_t qk_stride, v_stride, gate_stride, out_stride;
  uint32_t n, dk, begin, end;
};

// Causal depthwise convolution of channels [begin, end), and SiLU if that follows:
//   out[t][c] = silu(bias[c] + sum over taps j of weights[c][j] * input[t + j][c])
struct ConvRows {
  const float* const* input;  // (width - 1 + n) rows, the history first
  const float* weights;       // (channels, width)
  float* out;                 // (n, channels)
  uint32_t channels, width, n, begin, end;
  const float* bias = nullptr;  // (channels), or none
  bool silu = true;
};

}  // namespace moeflux::ops::cpu
