// Convolution of rows of several segments, each behind the last inputs that its state holds: for
// mixers.
#pragma once
#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

struct Convolution {
  const float* weights = nullptr;  // (channels, width)
  const float* bias = nullptr;     // (channels), or none
  uint32_t channels = 0, width = 0;
  bool silu = false;      // follows
  uint64_t state_at = 0;  // where a state holds (width - 1, channels) inputs, oldest first
};

// rows and out are (all rows, channels). The last inputs of each segment become those of its
// state_out.
void convolve(CpuOps& ops, const Convolution& w, Segments segments, const float* rows, float* out);

}  // namespace moeflux::ops::cpu
