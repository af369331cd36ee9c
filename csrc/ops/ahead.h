// Ahead: stages by which a device goes on through MoE layers whose experts are all in memory, without
// an answer of the caller's. The device looks up by itself what a router has chosen (find), and
// computes it where it lies (experts). Where one is not in memory, or not where kernels reach it, it
// says so, and no stage of this interface reads a slot until resume(). Other stages that were enqueued
// behind it run on, over numbers without a meaning.
//
// One row. All pointers lead into the model's Arena; the contract of ops.h holds. Experts stay where
// the table says from submit() to the ticket's end: the caller's to see to.
#pragma once
#include <cstdint>

#include "ops/rows.h"

namespace moeflux::ops {

struct GatedFfn;
struct Router;

struct Lookup {
  const uint32_t* table = nullptr;   // (n_experts): places of the layer's experts
  const uint32_t* chosen = nullptr;  // (top_k): what the router has chosen
  const float* x = nullptr;          // (dim): the residual stream that the layer adds to
  uint32_t n_experts = 0, top_k = 0, dim = 0;
  // Written where no earlier layer has stopped the device, else left alone:
  uint32_t* note =
      nullptr;             // (top_k + 1): what was chosen, and 1 where all of it is in memory, or 0
  float* saved = nullptr;  // (dim): x
  // Written always: their places, or none where the device has stopped.
  uint32_t* places = nullptr;  // (top_k)
  uint32_t* stopped =
      nullptr;  // a word, 0 before the first: not 0 once an expert was not in memory
};

class Ahead {
 public:
  virtual ~Ahead() = default;
  // Whether there are kernels for such a layer. `expert`: its shapes, any slot's.
  virtual bool fits(const Router& router, const GatedFfn& expert) const = 0;
  // `expert` as below. REQUIRES: the stage enqueued before was the route() that writes `chosen`.
  virtual void find(const Lookup& lookup, const GatedFfn& expert) = 0;
  // out (top_k, d_model): what the experts that were looked up give, as Ops::experts does, bit by bit;
  // of no place: nothing is written. The planes of `expert` are offsets in a slot, as addresses; its
  // biases are those of the first of n_experts.
  virtual void experts(const Lookup& lookup, const GatedFfn& expert, const Rows& normed,
                       float* out) = 0;
  // x is again what find() has saved, and the device goes on.
  virtual void resume(const float* saved, uint32_t dim, uint32_t* stopped, float* x) = 0;
};

}  // namespace moeflux::ops
