// Pass: one forward pass of a step: consecutive tokens of some requests, a row each.
#pragma once
#include "engine/passes.h"
#include "engine/request.h"

namespace moeflux::engine {

struct Pass {
  std::span<const Request> requests;
  std::span<const Share> shares;   // in the order of their rows
  std::span<const uint32_t> done;  // by request: tokens that earlier passes have computed
  uint32_t top_k = 0;              // experts a token that an override wants; 0: the model's number

  uint32_t n_rows() const {
    uint32_t n = 0;
    for (const Share& share : shares) n += share.n;
    return n;
  }
  bool is_decode() const { return n_rows() == shares.size(); }  // a token of each session
  ops::Router router_of(const model::Moe& moe) const {
    ops::Router router = moe.router;
    if (top_k) router.top_k = top_k;
    return router;
  }
  // Calls f(row of the pass, request, token of the request) for every row.
  template <class F>
  void each_row(F f) const {
    uint64_t row = 0;
    for (const Share& share : shares)
      for (uint32_t i = 0; i < share.n; ++i)
        f(row++, requests[share.request], uint64_t(done[share.request]) + i);
  }
};

}  // namespace moeflux::engine
