// Reads what the dict that moeflux.families builds says: resident weights into an arena, and where
// the experts lie.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "io/file.h"
#include "model/model.h"
#include "store/expert_store.h"

namespace moeflux::bindings {

// Fills `weights`; returns the experts by MoE layer. Throws FormatError, IoError,
// MemoryBudgetError; of several errors the one of the tensor that is asked for first. Signals are
// seen between tensors.
std::vector<store::LayerExperts> read_weights(const pybind11::dict& spec,
                                              const std::vector<std::shared_ptr<io::File>>& files,
                                              base::Arena& arena, model::Weights& weights);

// The shapes of a layer's experts (its dict "experts"); no planes. Throws FormatError.
ops::GatedFfn expert_shapes(const pybind11::dict& source);

}  // namespace moeflux::bindings
