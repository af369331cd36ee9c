// RunAhead: a token of decode of which the device is told several layers before any of them has
// answered. The device looks the chosen experts up by itself (ops/ahead.h); where one is not in
// memory it goes idle until the engine has read what is missing and told it the rest again. A layer
// of hits costs no answer, and what the store does and counts is the same as without.
//
// Slots of layers under way are not pinned. None can go meanwhile: the store gives slots away for
// misses alone, and by the time that the engine sees one the layers before it are done and those
// behind it read no slot.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/look_ahead.h"
#include "ops/ahead.h"

namespace moeflux::engine {

class RunAhead {
 public:
  struct Stages {  // what else the device is told, by the engine
    // All of a layer up to its experts' input, which it returns; of a dense layer all.
    std::function<ops::Rows(size_t index)> enter;
    std::function<void()> head;  // behind the last layer
  };

  // Not `enabled`, or ops that cannot: never helps.
  RunAhead(const Tools& tools, LookAhead& look_ahead, ops::Ahead* ahead, bool enabled,
           base::Arena& arena);
  // Of the arena, for a model of these weights.
  static uint64_t bytes(const model::Weights& weights, const ops::Ahead* ahead,
                        const base::Arena& arena);

  // Whether the pass may go this way: one row, the first of its step, that nobody looks into.
  bool helps(const Pass& pass) const;
  // A token has been computed, this way or not, of which so many experts were not in memory.
  void judge(uint64_t misses);
  // Enqueues all layers and the head. On return what the experts of every layer were is known to be
  // right. REQUIRES: helps(pass), x of the first layer is enqueued, nothing is under way.
  void run(const Pass& pass, const Stages& stages);

 private:
  struct Place {  // of a MoE layer
    size_t index;
    const model::Moe* moe;
    float hits = 1;  // how often lately all its experts were in memory, 0 to 1
  };
  class Walk;  // one run
  static bool fits(const model::Weights& weights, const ops::Ahead* ahead);

  const Tools tools_;
  LookAhead& look_ahead_;
  ops::Ahead* ahead_ = nullptr;  // null: cannot
  std::vector<Place> layers_;    // of experts
  float missing_ = 1;            // experts a layer and token, lately
  base::Memory saved_;    // (d_model): x before the experts of the layer that missed, if one has
  base::Memory notes_;    // (layers, top_k + 1), as Lookup has it
  base::Memory places_;   // (top_k)
  base::Memory stopped_;  // a word
};

}  // namespace moeflux::engine
