// Values: a row of logits as it is adjusted and ranked. Knows no sampler and no state.
#pragma once
#include <utility>
#include <vector>

#include "sampling/exponentials.h"

namespace moeflux::sampling {

class Values {
 public:
  explicit Values(std::span<const float> logits);  // (vocab)

  uint32_t size() const { return size_; }
  double& operator[](uint32_t token) { return values_[token]; }
  double operator[](uint32_t token) const { return values_[token]; }
  std::span<const double> padded() const { return values_; }
  std::vector<double> take() { return std::move(values_); }  // padded; the last thing to ask for

  // After a change, and before what is below. Throws SessionError for NaN and +inf.
  void rank();
  double largest() const { return largest_; }
  uint32_t first() const;  // the lowest id of the largest value
  // Ids of the n largest values, ascending. Of equal ones the lower ids.
  std::vector<uint32_t> best(uint32_t n) const;

 private:
  std::vector<double> values_;  // whole blocks
  std::vector<double> maxima_;  // of blocks
  uint32_t size_;
  double largest_ = 0;
};

// What the logarithm of a token's probability is measured from.
struct LogTotal {
  double largest, log_sum;
  double of(double logit) const { return logit - largest - log_sum; }
};
LogTotal log_total(const Values& ranked);

// The n most probable tokens and their natural logarithms, best first; of equals the lower id.
std::vector<std::pair<uint32_t, double>> top_logprobs(const Values& ranked, const LogTotal& total,
                                                      uint32_t n);

}  // namespace moeflux::sampling
