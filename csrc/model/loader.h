// Builds a model from a spec: resident weights into an arena, each checked against the shape that
// the layer's numbers give, and where the experts lie.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "io/file.h"
#include "model/model.h"
#include "model/node.h"
#include "model/weight_reader.h"

namespace moeflux::model {

// Fills `weights`; returns the experts by MoE layer. `poll` is asked between tensors; what it
// throws leaves the call. `decode` makes vectors of what is stored as quantised matrices;
// without bytes (holes) it is not called. Throws FormatError that names the tensor, or the part
// where there is none, IoError, MemoryBudgetError; of several errors that of the tensor which is
// asked for first.
std::vector<store::LayerExperts> load(const Node& spec,
                                      const std::vector<std::shared_ptr<io::File>>& files,
                                      base::Arena& arena, const std::function<void()>& poll,
                                      Weights& weights, DecodeRow decode = {});

// The shapes of a layer's experts (the spec's "experts"); no planes. Throws FormatError.
ops::GatedFfn expert_shapes(const Node& experts);

}  // namespace moeflux::model
