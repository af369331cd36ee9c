// What moeflux.families builds, as the core's loader reads it.
#pragma once
#include <pybind11/pybind11.h>

#include "model/node.h"

namespace moeflux::bindings {

// Of `tree` (spec.py): dicts, lists and values. A tuple is a tensor (name, file, offset, nbytes,
// dtype), a range of each expert (files, offsets, nbytes), or a list. Throws FormatError.
model::Node to_node(const pybind11::handle& source);

}  // namespace moeflux::bindings
