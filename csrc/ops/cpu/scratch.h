// What the CPU ops take beside their operands: a pure function of what a model will ask.
#pragma once
#include <cstdint>

#include "ops/ops.h"

namespace moeflux::ops::cpu {

struct ScratchPlan {
  uint64_t worker_floats = 0;  // a worker: expanded weight rows, or attention scores
  uint64_t row_floats = 0;     // stage buffers of all rows
  uint64_t hidden_floats = 0;  // of FFNs, all rows or pairs of a call
};

ScratchPlan plan_scratch(const Workload& work);

}  // namespace moeflux::ops::cpu
