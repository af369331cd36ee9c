// Passes: how a step of several sessions is cut into forward passes. A pure function.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace moeflux::engine {

struct Remaining {        // of one request of a step
  uint32_t position = 0;  // of its next token
  uint32_t n = 0;         // tokens not computed yet
};

struct Share {  // consecutive tokens of one request that a pass computes
  uint32_t request = 0, n = 0;
};

// The next pass of at most `rows` rows, in the order of the requests; empty: all is done. Shares
// are max-min fair: short requests (a token of decode) go whole, long ones divide the rest equally;
// so prefill fills what decode leaves and nobody waits for it. A share ends where its session's
// position is a multiple of `chunk`, so a session alone is cut at the same places however its
// tokens come.
std::vector<Share> next_pass(std::span<const Remaining> requests, uint32_t rows, uint32_t chunk);

}  // namespace moeflux::engine
