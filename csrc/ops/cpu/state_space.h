// What Mamba-2's kernel is asked for.
#pragma once
#include <cstdint>

namespace moeflux::ops::cpu {

// Rows [begin, end) of the state of one head, over n tokens of one sequence:
//   S = g S + (dt u) b^T;  out = S c + skip u        S (rows, width)
// A row of the state depends on no other, so it stays in registers from the first token to the
// last.
struct StateSpace {
  const float* state_in;  // (rows, width)
  float* state_out;       // may be state_in
  const float* u;         // (n, rows), `stride` floats from one token to the next
  const float *b, *c;     // (n, width), stride
  const float *g, *dt;    // (n), gate_stride
  float* out;             // (n, rows), out_stride
  uint64_t stride, gate_stride, out_stride;
  float skip;
  uint32_t n, width, begin, end;
};

}  // namespace moeflux::ops::cpu
