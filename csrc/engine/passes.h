// Passes: how a step of several sessions is cut into forward passes, and a pass into slices. Pure
// functions.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace moeflux::engine {

struct Remaining {        // of one request of a step
  uint32_t position = 0;  // of its next token
  uint32_t n = 0;         // tokens not computed yet
  uint32_t done = 0;      // tokens that earlier passes have computed
};

struct Share {  // consecutive tokens of one request that a pass computes, from its token `begin` on
  uint32_t request = 0, n = 0, begin = 0;
};

// The next pass of at most `rows` rows, in the order of the requests; empty: all is done. What a
// request gets is max-min fair: short requests (a token of decode) go whole, long ones divide the
// rest equally; so prefill fills what decode leaves and nobody waits for it. It comes as shares
// that end where the session's position is a multiple of `chunk`, and so does what a request gets
// of a pass, unless that is all, or ends before the first such place: a session alone is cut at the
// same places however its tokens come.
std::vector<Share> next_pass(std::span<const Remaining> requests, uint32_t rows, uint32_t chunk);

// What goes through a stage at once: shares of different requests, `chunk` rows of them at most.
// Experts alone take all rows of a pass together.
struct Slice {
  std::span<const Share> shares;
  uint32_t row = 0, n = 0;  // of the pass
};

// A pass in slices, in order: a request's shares are in different ones, so that recurrent state
// goes from each to the next. They point into `shares`.
std::vector<Slice> slices_of(std::span<const Share> shares, uint32_t chunk);

}  // namespace moeflux::engine
