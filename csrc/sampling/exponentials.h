// The loops over a whole vocabulary, in registers as wide as the machine has.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace moeflux::sampling {

// Values come in blocks of so many; a row is padded with -inf.
inline constexpr uint32_t kBlock = 32;

// maxima[b]: the largest value of block b. Returns whether any value is NaN.
bool block_maxima(std::span<const double> values, double* maxima);

// exp((values[i] - from) * scale) for values up to `from`: within 1e-15 of itself, and 0 below
// 1e-300. Written to `out` unless that is null (values.data() may be). sums[b], unless null: of
// block b. Returns the sum of all.
double exponentials(std::span<const double> values, double from, double scale, double* out,
                    double* sums);

struct Side {  // of weights: what is above a pivot
  double sum = 0;
  uint64_t n = 0, n_equal = 0;  // equal to the pivot, which are not among them
};
Side above(std::span<const double> weights, double pivot);

}  // namespace moeflux::sampling
