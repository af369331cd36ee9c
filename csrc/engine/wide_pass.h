// Wide passes: how many rows a pass may have. A sweep over the experts serves all of them, so a
// prompt that is longer than a chunk reads them fewer times. What such passes compute in is booked
// for the step alone, in the place of slots; decode and sessions lose nothing to it.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace moeflux::engine {

// Options::rows, or a chunk where it says nothing. Throws FormatError when they are out of range.
uint32_t rows_asked_for(uint32_t rows, uint32_t chunk);

// What the plan may choose from, where nothing is asked for: ascending, each twice the one before,
// none beyond what a session's context fills.
std::vector<uint32_t> wider_passes(const model::Weights& weights, const base::Arena& arena,
                                   const Options& options);

}  // namespace moeflux::engine
