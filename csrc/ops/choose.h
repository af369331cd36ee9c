// How a router chooses experts and weighs them. Pure: the CPU's router and overrides of a routing
// share it. (On a device: shaders/router.metal.)
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

namespace moeflux::ops {

// Sorts `experts` so that the top_k of the highest logits come first, by ascending id. Of equal
// logits the lower id is chosen; a NaN is below all numbers.
inline void choose(const float* logits, uint32_t top_k, std::span<uint32_t> experts) {
  const auto before = [logits](uint32_t a, uint32_t b) {
    const bool nan_a = std::isnan(logits[a]), nan_b = std::isnan(logits[b]);
    if (nan_a != nan_b) return nan_b;
    if (nan_a || logits[a] == logits[b]) return a < b;
    return logits[a] > logits[b];
  };
  std::partial_sort(experts.begin(), experts.begin() + top_k, experts.end(), before);
  std::sort(experts.begin(), experts.begin() + top_k);
}

// scores (all experts): the softmax of the logits among some experts; of the others nothing.
inline void score(const float* logits, std::span<const uint32_t> among, double* scores) {
  double highest = -INFINITY, total = 0;
  for (uint32_t expert : among) highest = std::max(highest, double(logits[expert]));
  for (uint32_t expert : among) total += scores[expert] = std::exp(logits[expert] - highest);
  for (uint32_t expert : among) scores[expert] /= total;
}

// weights (chosen.size()): the scores of the chosen, `normalise`: divided by their sum.
template <class T>
void weigh(const T* scores, bool normalise, std::span<const uint32_t> chosen, float* weights) {
  T total = normalise ? 0 : 1;
  if (normalise)
    for (uint32_t expert : chosen) total += scores[expert];
  for (uint32_t expert : chosen) *weights++ = static_cast<float>(scores[expert] / total);
}

}  // namespace moeflux::ops
