// How a router chooses experts and weighs them: its steps (Router). Pure: the CPU's router and
// overrides of a routing share it. (On a device: shaders/router.metal.)
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "ops/linear.h"

namespace moeflux::ops {

// Sorts `experts` so that the top_k of the highest ranks come first, by ascending id. Of equal
// ranks the lower id is chosen; a NaN is below all numbers.
inline void choose(const float* ranks, uint32_t top_k, std::span<uint32_t> experts) {
  const auto before = [ranks](uint32_t a, uint32_t b) {
    const bool nan_a = std::isnan(ranks[a]), nan_b = std::isnan(ranks[b]);
    if (nan_a != nan_b) return nan_b;
    if (nan_a || ranks[a] == ranks[b]) return a < b;
    return ranks[a] > ranks[b];
  };
  std::partial_sort(experts.begin(), experts.begin() + top_k, experts.end(), before);
  std::sort(experts.begin(), experts.begin() + top_k);
}

// scores (all experts): of the experts `among`, of the others nothing. A softmax is one among them.
template <class T>
void score(Score kind, const float* logits, std::span<const uint32_t> among, T* scores) {
  if (kind == Score::sigmoid) {
    for (uint32_t expert : among) scores[expert] = 1 / (1 + std::exp(-T(logits[expert])));
    return;
  }
  T highest = -INFINITY, total = 0;
  for (uint32_t expert : among) highest = std::max(highest, T(logits[expert]));
  for (uint32_t expert : among) total += scores[expert] = std::exp(logits[expert] - highest);
  for (uint32_t expert : among) scores[expert] /= total;
}

// Ranks (n_experts) outside the best groups become lower than all others. A group is worth the sum
// of its two highest ranks.
inline void keep_best_groups(const Router& router, float* ranks) {
  const uint32_t size = router.n_experts / router.n_groups;
  std::vector<float> worth(router.n_groups);
  std::vector<uint32_t> order(router.n_groups);
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t group : order) {
    float first = -INFINITY, second = -INFINITY;
    for (const float rank : std::span(ranks + group * size, size)) {
      second = std::max(second, std::min(first, rank));
      first = std::max(first, rank);
    }
    worth[group] = first + second;
  }
  choose(worth.data(), router.top_groups, order);
  for (uint32_t group : std::span(order).subspan(router.top_groups))
    std::fill_n(ranks + group * size, size, -INFINITY);
}

// What the experts `among` are chosen by: the logits, whose order is that of scores (which may
// round two of them together), or ranks (n_experts) made of the scores.
inline const float* rank(const Router& router, const float* logits, const float* scores,
                         std::span<const uint32_t> among, float* ranks) {
  if (!router.ranks()) return logits;
  std::fill_n(ranks, router.n_experts, -INFINITY);
  for (uint32_t expert : among)
    ranks[expert] = scores[expert] + (router.selection_bias ? router.selection_bias[expert] : 0);
  if (router.n_groups > 1) keep_best_groups(router, ranks);
  return ranks;
}

// weights (chosen.size()) of the scores of the chosen.
template <class T>
void weigh(const Router& router, const T* scores, std::span<const uint32_t> chosen,
           float* weights) {
  T total = router.normalise ? T(router.sum_eps) : 1;
  if (router.normalise)
    for (uint32_t expert : chosen) total += scores[expert];
  for (uint32_t expert : chosen) {
    const T weight = scores[expert] / total * T(router.scale);
    *weights++ =
        static_cast<float>(router.expert_scale ? weight * T(router.expert_scale[expert]) : weight);
  }
}

}  // namespace moeflux::ops
