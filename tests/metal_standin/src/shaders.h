// The shader library's own kernels, run by the executor of the host device.
#pragma once
#include <vector>

#include "metal_standin.h"

namespace metal_standin {

std::vector<Kernel> shader_kernels();

}  // namespace metal_standin
