#include "sampling/values.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace moeflux::sampling {

Values::Values(std::span<const float> logits) : size_(static_cast<uint32_t>(logits.size())) {
  const size_t n_blocks = (logits.size() + kBlock - 1) / kBlock;
  values_.reserve(n_blocks * kBlock);
  values_.assign(logits.begin(), logits.end());
  values_.resize(n_blocks * kBlock, -std::numeric_limits<double>::infinity());
  maxima_.resize(n_blocks);
}

void Values::rank() {
  const bool nan = block_maxima(values_, maxima_.data());
  largest_ = -std::numeric_limits<double>::infinity();
  for (const double most : maxima_) largest_ = std::max(largest_, most);
  if (!nan && largest_ < std::numeric_limits<double>::infinity()) return;
  const auto bad = std::find_if(values_.begin(), values_.end(), [](double value) {
    return !(value < std::numeric_limits<double>::infinity());
  });
  throw SessionError("[sampling] expected logits that are finite or -inf, found ",
                     std::isnan(*bad) ? "NaN" : "inf", " at token ", bad - values_.begin());
}

uint32_t Values::first() const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), largest_) - maxima_.begin();
  const auto begin = values_.begin() + block * kBlock;
  return static_cast<uint32_t>(std::find(begin, values_.end(), largest_) - values_.begin());
}

std::vector<uint32_t> Values::best(uint32_t n) const {
  n = std::min(n, size_);
  std::vector<uint32_t> ids;
  if (n == 0) return ids;
  // n blocks have a value as large as the n-th of their maxima: what is smaller is not among the n.
  double bound = -std::numeric_limits<double>::infinity();
  std::vector<double> order;
  if (n < maxima_.size()) {
    order = maxima_;
    std::nth_element(order.begin(), order.begin() + (n - 1), order.end(), std::greater<>());
    bound = order[n - 1];
  }
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (maxima_[block] < bound) continue;
    const uint32_t begin = static_cast<uint32_t>(block) * kBlock;
    for (uint32_t id = begin; id < std::min(begin + kBlock, size_); ++id)
      if (values_[id] >= bound) ids.push_back(id);
  }
  order.clear();
  for (const uint32_t id : ids) order.push_back(values_[id]);
  std::nth_element(order.begin(), order.begin() + (n - 1), order.end(), std::greater<>());
  const double last = order[n - 1];
  auto equal = n - std::count_if(order.begin(), order.begin() + n,
                                 [&](double value) { return value > last; });
  std::erase_if(ids, [&](uint32_t id) {
    return values_[id] < last || (values_[id] == last && equal-- <= 0);
  });
  return ids;
}

LogTotal log_total(const Values& ranked) {
  return {ranked.largest(),
          std::log(exponentials(ranked.padded(), ranked.largest(), 1, nullptr, nullptr))};
}

std::vector<std::pair<uint32_t, double>> top_logprobs(const Values& ranked, const LogTotal& total,
                                                      uint32_t n) {
  std::vector<std::pair<uint32_t, double>> top;
  for (const uint32_t id : ranked.best(n)) top.emplace_back(id, total.of(ranked[id]));
  std::stable_sort(top.begin(), top.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return top;
}

}  // namespace moeflux::sampling
