// What networks make of gate and up, as kernels take it (shaders/activation.h).
#pragma once
#include <limits>

#include "ops/gpu/recorder.h"

namespace moeflux::ops::gpu {

// A kernel in the form that does it; one that is SwiGLU's by default.
inline Recorder::Kernel with_activation(Recorder::Kernel kernel, const GatedFfn& w) {
  const uint32_t activation = w.unit == Unit::gelu    ? 2
                              : w.unit == Unit::relu2 ? 3
                              : w.is_plain()          ? 0
                                                      : 1;
  if (activation) kernel.set("Activation", activation);
  if (!w.has_up()) kernel.set("Gated", 0);
  return kernel;
}

// A kernel in the form that adds biases of experts' outputs, where they have some.
inline Recorder::Kernel with_biases(Recorder::Kernel kernel, const GatedFfn& expert) {
  if (expert.down.bias) kernel.set("Biased", 1);
  return kernel;
}

// The limit that kernels have, which is one always.
inline float limit_of(const GatedFfn& w) {
  return w.limit == 0 ? std::numeric_limits<float>::infinity() : w.limit;
}

// What kernels call up: all that there is, where nothing is a gate.
inline const Linear& up_of(const GatedFfn& w) {
  return w.has_up() ? w.up : w.gate;
}

}  // namespace moeflux::ops::gpu
