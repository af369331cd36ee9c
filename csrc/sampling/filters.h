// What is left of a distribution under a temperature and filters, and the token of a draw.
#pragma once
#include <vector>

#include "sampling/values.h"

namespace moeflux::sampling {

struct Filters {
  double temperature = 1;  // above 0
  uint32_t top_k = 0;      // the most probable ones; 0: all
  double top_p = 1;        // of these the smallest set whose share reaches it
  double min_p = 0;        // of these what has this share of the best one's probability
};

struct Kept {
  std::vector<uint32_t> ids;    // ascending
  std::vector<double> weights;  // of each, up to a common factor
};

// Of equals at a boundary the lower ids are kept. Takes the ranked values' memory.
Kept keep(Values values, const Filters& filters);

// The first token, by id, at which the sum of the kept probabilities passes `uniform` (in [0, 1)).
uint32_t draw(Values values, const Filters& filters, double uniform);

}  // namespace moeflux::sampling
