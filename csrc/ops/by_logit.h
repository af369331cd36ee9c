// The order in which a router prefers experts.
#pragma once
#include <cmath>
#include <cstdint>

namespace moeflux::ops {

// Higher logits first; ties go to the lower index, NaN sorts last.
struct ByLogit {
  const float* logits;
  bool operator()(uint32_t a, uint32_t b) const {
    const bool nan_a = std::isnan(logits[a]), nan_b = std::isnan(logits[b]);
    if (nan_a != nan_b) return nan_b;
    if (nan_a || logits[a] == logits[b]) return a < b;
    return logits[a] > logits[b];
  }
};

}  // namespace moeflux::ops
