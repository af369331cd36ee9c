// What mixers with a state for each head have in common, on the CPU.
#pragma once
#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

inline constexpr uint32_t kStateTaskRows = 32;  // of a task: 16 KB of state at 128 columns

inline float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

// f(segment, head, begin, end) as tasks: rows [begin, end) of the state of a head of a segment.
template <class F>
void each_state_task(CpuOps& ops, Segments segments, uint32_t n_heads, uint32_t head_rows,
                     const F& f) {
  const uint32_t parts = (head_rows + kStateTaskRows - 1) / kStateTaskRows;
  const uint32_t per_segment = n_heads * parts;
  ops.pool().parallel_for(static_cast<int>(segments.size() * per_segment), [&](int task, int) {
    const uint32_t begin = task % parts * kStateTaskRows;
    f(segments[task / per_segment], task % per_segment / parts, begin,
      std::min(begin + kStateTaskRows, head_rows));
  });
}

}  // namespace moeflux::ops::cpu
