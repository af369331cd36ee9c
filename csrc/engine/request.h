// Request: what a step appends to one session, and what the caller wants to see of it.
#pragma once
#include <functional>
#include <span>

#include "engine/routing.h"
#include "engine/session.h"

namespace moeflux::engine {

struct Capture {  // where to write what a step saw; null: not asked for. n = tokens of the request
  int32_t* experts = nullptr;  // (n, n_layers, top_k) ascending, -1 in dense layers
  float* weights = nullptr;    // (n, n_layers, top_k)
  float* router = nullptr;     // (n, n_layers, n_experts), NaN in dense layers
  float* hidden = nullptr;     // (n, n_layers + 1, d_model): embedding, then after each layer
  uint32_t top_k = 0, n_experts = 0;
};

struct Request {
  Session* session = nullptr;
  std::span<const uint32_t> tokens;
  bool all_logits = false;  // after every token, not the last alone
  // Called with the logits (vocab) after tokens[token], which are gone when it returns; on any
  // thread, for several tokens and requests at once. Null: no logits are computed.
  std::function<void(uint32_t token, const float* logits)> on_logits;
  Capture capture;
  const RoutingOverride* routing = nullptr;  // null: the model's own
  uint32_t routing_origin = 0;               // position that the override counts tokens from
};

}  // namespace moeflux::engine
