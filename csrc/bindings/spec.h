// The model that a Python spec describes: shared by loading and planning.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "model/model.h"

namespace moeflux::bindings {

// Reads the resident weights that `spec` (moeflux.families) names into `weights`, booked in
// `account`; returns where the experts lie. Needs the GIL, releases it while reading.
std::vector<store::LayerExperts> read_spec(const pybind11::dict& spec,
                                           const std::vector<std::shared_ptr<io::File>>& files,
                                           base::Account& account, model::Weights& weights);

}  // namespace moeflux::bindings
