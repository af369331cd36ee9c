// RoutingOverride: other experts than the router would choose, for people who study routing. Off
// unless a request names one. Works on the router's logits as they are read back, so it is the same
// on every device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/account.h"
#include "model/model.h"

namespace moeflux::engine {

struct RoutingOverride {
  uint32_t top_k = 0;           // experts a token; 0: the model's number
  std::vector<uint8_t> masked;  // (n_layers, n_experts) 1: never chosen; empty: none
  // (n_forced, n_layers, top_k) expert ids of token 0, 1, ... from the request's origin; -1 in all
  // of a row: the router chooses there. Tokens behind n_forced are the router's.
  std::vector<int32_t> forced;
  uint32_t n_forced = 0;
  bool repeat = false;  // every token takes the forced row 0
  std::string name;     // for statistics
  base::Booking booking;

  uint64_t nbytes() const { return masked.size() + forced.size() * sizeof(int32_t); }
};

// Sorts forced ids, and drops a top_k that is the model's own. Throws SessionError when the
// override does not fit the model: sizes, unknown, repeated or masked experts, a mask that leaves
// too few, a top_k that the buffers cannot hold.
void check_override(const model::Weights& weights, RoutingOverride& override);

// Rewrites one row's experts (top_k, ascending) and weights (top_k) of layer `index`, where the
// override says anything about token `token`. logits (n_experts). A mask is as if the expert did
// not exist; forced experts get the router's probabilities. Where that is the router's own choice,
// weights keep the router's bits.
void apply_override(const RoutingOverride& override, const ops::Router& router, uint64_t index,
                    uint64_t n_layers, uint32_t width, uint64_t token, const float* logits,
                    uint32_t* experts, float* weights);

}  // namespace moeflux::engine
