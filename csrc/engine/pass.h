// Pass: one forward pass of a step: consecutive tokens of some requests, a row each.
#pragma once
#include "engine/passes.h"
#include "engine/request.h"

namespace moeflux::engine {

struct Pass {
  std::span<const Request> requests;
  std::span<const Share> shares;  // in the order of their rows
  std::span<const Slice> slices;  // of the shares
  uint32_t top_k = 0;             // experts a token that an override wants; 0: the model's number

  uint32_t n_rows() const { return slices.back().row + slices.back().n; }
  bool is_decode() const { return n_rows() == shares.size(); }  // a token of each session
  ops::Router router_of(const model::Moe& moe) const {
    ops::Router router = moe.router;
    if (top_k) router.top_k = top_k;
    return router;
  }
  // A slice of all its rows, (n, dim). After the id of `all` come those of its slices.
  ops::Rows slice_of(const ops::Rows& all, uint64_t dim, size_t index) const {
    const Slice& slice = slices[index];
    return {all.data + slice.row * dim, slice.n, slices.size() == 1 ? all.id : all.id + 1 + index};
  }
  // Calls f(row of the pass, request, token of the request) for every row.
  template <class F>
  void each_row(F f) const {
    uint64_t row = 0;
    for (const Share& share : shares)
      for (uint32_t i = 0; i < share.n; ++i)
        f(row++, requests[share.request], uint64_t(share.begin) + i);
  }
};

}  // namespace moeflux::engine
