// Pieces of a stage's buffer, one after the other.
#pragma once
#include <cstdint>
#include <utility>

#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

struct CpuOps::Bump {
  float* next;
  float* take(uint64_t floats) { return std::exchange(next, next + floats); }
};

}  // namespace moeflux::ops::cpu
