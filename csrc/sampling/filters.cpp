#include "sampling/filters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace moeflux::sampling {

namespace {

// 1 / temperature, finite: 0 times it is 0.
double scale_of(double temperature) {
  return std::min(1 / temperature, std::numeric_limits<double>::max());
}

// Index of the first weight at which the sum passes its share `uniform`. sums: of blocks of weights.
size_t pick(std::span<const double> weights, std::span<const double> sums, double uniform) {
  const double target = uniform * std::accumulate(sums.begin(), sums.end(), 0.0);
  double sum = 0;
  for (size_t block = 0; block < sums.size(); sum += sums[block++]) {
    if (sum + sums[block] <= target) continue;
    double within = sum;
    for (size_t i = block * kBlock; i < std::min((block + 1) * kBlock, weights.size()); ++i)
      if ((within += weights[i]) > target) return i;
  }
  size_t last = weights.size() - 1;  // rounding: the sum ends below a draw just below 1
  while (last > 0 && weights[last] == 0) --last;
  return last;
}

// Appends those that are wanted to the front; a branch would be guessed wrongly half of the time.
template <class F>
size_t gather(std::span<double> weights, F wants) {
  size_t n = 0;
  for (const double w : weights) {
    weights[n] = w;
    n += wants(w);
  }
  return n;
}

struct Cut {
  double least;      // what is above it is kept
  uint64_t n_equal;  // and so many that equal it
};

// The smallest set of the largest weights whose sum reaches `mass`; the largest is always in it. No
// weight is below `least`, none above 1. Bisects the range by its bits: rounds are bounded whatever
// the weights are.
Cut cut(std::vector<double> copy, double least, double mass) {
  std::span<double> weights = copy;
  uint64_t low = std::bit_cast<uint64_t>(least), high = std::bit_cast<uint64_t>(1.0);
  for (;;) {
    const uint64_t middle = low + (high - low) / 2;
    const double pivot = std::bit_cast<double>(middle);
    const Side side = above(weights, pivot);
    const double equals = static_cast<double>(side.n_equal) * pivot;
    const bool up = side.n > 0 && side.sum >= mass;
    if (!up && (side.sum + equals >= mass || side.n + side.n_equal == weights.size())) {
      const double wanted = std::max(std::ceil((mass - side.sum) / pivot), side.n ? 0.0 : 1.0);
      const bool some = wanted < static_cast<double>(side.n_equal);
      return {pivot, some ? static_cast<uint64_t>(wanted) : side.n_equal};
    }
    if (up) {
      low = middle + 1;
      if (side.n < weights.size())
        weights = weights.first(gather(weights, [=](double w) { return w > pivot; }));
    } else {
      high = middle - 1;
      mass -= side.sum + equals;
      if (side.n + side.n_equal > 0)
        weights = weights.first(gather(weights, [=](double w) { return w < pivot; }));
    }
  }
}

// Leaves what is above `least`, and the first `n_equal` of what equals it.
void leave(Kept& kept, double least, uint64_t n_equal) {
  size_t n = 0;
  uint64_t equal = 0;
  for (size_t i = 0; i < kept.ids.size(); ++i) {
    const double w = kept.weights[i];
    kept.ids[n] = kept.ids[i];
    kept.weights[n] = w;
    n += (w > least) | ((w == least) & (equal < n_equal));
    equal += w == least;
  }
  kept.ids.resize(n);
  kept.weights.resize(n);
}

// What top_p keeps of `size` tokens is no less. All that are below the first bound sum to less than
// what is left out, half of it for the rounding; larger ones, which leave out nearly all tokens of
// most models, are tried.
double lower_bound(std::span<const double> weights, double total, uint32_t size, double top_p) {
  constexpr double kSteps[] = {64, 8}, kRounding = 1 + 1e-9;
  double bound = (1 - top_p) * total / size / 2;
  for (const double step : kSteps)
    if (above(weights, bound * step).sum >= top_p * total * kRounding) bound *= step;
  return bound;
}

Kept of_best(const Values& values, const Filters& filters) {
  Kept kept{values.best(filters.top_k), {}};
  for (const uint32_t id : kept.ids) kept.weights.push_back(values[id]);
  kept.weights.resize((kept.ids.size() + kBlock - 1) / kBlock * kBlock,
                      -std::numeric_limits<double>::infinity());
  exponentials(kept.weights, values.largest(), scale_of(filters.temperature), kept.weights.data(),
               nullptr);
  kept.weights.resize(kept.ids.size());
  return kept;
}

// Those of `weights` (of the padded row) that are at least `least`. sums: of its blocks.
Kept at_least(std::vector<double> weights, std::span<const double> sums, double least,
              uint32_t size) {
  size_t most = 0, n = 0;
  for (const double sum : sums) most += sum >= least ? kBlock : 0;
  std::vector<uint32_t> ids(most);
  for (uint32_t block = 0; block < sums.size(); ++block) {
    if (!(sums[block] >= least)) continue;
    for (uint32_t id = block * kBlock; id < (block + 1) * kBlock; ++id) {
      const double w = weights[id];
      weights[n] = w;
      ids[n] = id;
      n += w >= least;
    }
  }
  while (n > 0 && ids[n - 1] >= size) --n;  // padding, where everything is kept
  ids.resize(n);
  weights.resize(n);
  return {std::move(ids), std::move(weights)};
}

}  // namespace

Kept keep(Values values, const Filters& filters) {
  const uint32_t size = values.size();
  Kept kept;
  double total = 0, least = filters.min_p;
  if (filters.top_k > 0 && filters.top_k < size) {
    kept = of_best(values, filters);
    total = std::accumulate(kept.weights.begin(), kept.weights.end(), 0.0);
    leave(kept, least, UINT64_MAX);
  } else {
    const double largest = values.largest();
    std::vector<double> weights = values.take(), sums(weights.size() / kBlock);
    total =
        exponentials(weights, largest, scale_of(filters.temperature), weights.data(), sums.data());
    if (filters.top_p < 1)
      least = std::max(least, lower_bound(weights, total, size, filters.top_p));
    kept = at_least(std::move(weights), sums, least, size);
  }
  if (filters.top_p < 1) {
    const Cut last = cut(kept.weights, least, filters.top_p * total);
    leave(kept, last.least, last.n_equal);
  }
  return kept;
}

uint32_t draw(Values values, const Filters& filters, double uniform) {
  const bool whole = filters.top_k == 0 || filters.top_k >= values.size();
  if (whole && filters.top_p >= 1 && filters.min_p <= 0) {
    const double largest = values.largest();
    std::vector<double> weights = values.take(), sums(weights.size() / kBlock);
    exponentials(weights, largest, scale_of(filters.temperature), weights.data(), sums.data());
    return static_cast<uint32_t>(pick(weights, sums, uniform));
  }
  const Kept kept = keep(std::move(values), filters);
  std::vector<double> sums;
  for (std::span<const double> left = kept.weights; !left.empty();) {
    const auto block = left.first(std::min<size_t>(left.size(), kBlock));
    sums.push_back(above(block, 0).sum);
    left = left.subspan(block.size());
  }
  return kept.ids[pick(kept.weights, sums, uniform)];
}

}  // namespace moeflux::sampling
