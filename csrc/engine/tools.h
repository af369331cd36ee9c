// Tools: the parts of an engine that a layer's experts need. All outlive who holds them.
#pragma once
#include "engine/activations.h"
#include "engine/pipeline.h"

namespace moeflux::engine {

struct Tools {
  const model::Weights& weights;
  const Activations& act;
  store::ExpertStore& store;
  Pipeline& pipeline;
};

}  // namespace moeflux::engine
