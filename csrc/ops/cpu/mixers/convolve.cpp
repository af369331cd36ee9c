#include "ops/cpu/mixers/convolve.h"

#include <algorithm>
#include <vector>

namespace moeflux::ops::cpu {

namespace {
constexpr uint32_t kChannels = 1024;  // of a task: a few microseconds a token
}

void convolve(CpuOps& ops, const Convolution& w, Segments segments, const float* rows, float* out) {
  if (ops.pool().idle()) return;
  const uint32_t history = w.width - 1;
  std::vector<std::vector<const float*>> inputs;  // by segment: its history, then its rows
  for (const Segment& segment : segments) {
    std::vector<const float*>& input = inputs.emplace_back();
    for (uint32_t i = 0; i < history; ++i)
      input.push_back(segment.state_in + w.state_at + uint64_t(i) * w.channels);
    for (uint64_t i = 0; i < segment.n; ++i) input.push_back(rows + (segment.row + i) * w.channels);
  }
  const uint32_t parts = (w.channels + kChannels - 1) / kChannels;
  ops.pool().parallel_for(static_cast<int>(inputs.size() * parts), [&](int task, int) {
    const Segment& segment = segments[task / parts];
    const uint32_t begin = task % parts * kChannels;
    ops.kernels().convolve({inputs[task / parts].data(), w.weights,
                            out + uint64_t(segment.row) * w.channels, w.channels, w.width,
                            segment.n, begin, std::min(begin + kChannels, w.channels), w.bias,
                            w.silu});
  });
  for (size_t i = 0; i < inputs.size(); ++i)
    for (uint32_t j = 0; j < history; ++j)  // upwards: state_out may be state_in
      std::copy_n(inputs[i][segments[i].n + j], w.channels,
                  segments[i].state_out + w.state_at + uint64_t(j) * w.channels);
}

}  // namespace moeflux::ops::cpu
