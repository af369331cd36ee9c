// Names of weight formats and of their numbers, as checkpoints and the spec have them.
#pragma once
#include <string>

#include "base/format.h"

namespace moeflux::bindings {

quant::DType dtype_of(const std::string& name);  // throws FormatError
bool is_packed(const std::string& dtype);        // of codes, of blocks: no numbers

}  // namespace moeflux::bindings
