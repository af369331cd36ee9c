// The structs of arguments that kernels take, from the file that the shaders include.
#pragma once
#include <cstdint>

namespace moeflux::ops::gpu {
using uint = uint32_t;
#include "../../../shaders/arguments.h"
}  // namespace moeflux::ops::gpu
