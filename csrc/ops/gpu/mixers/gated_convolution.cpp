#include "ops/mixers/gated_convolution.h"

#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

void mix(gpu::GpuOps&, const GatedConvolution&, Segments, const Rows&, float*) {
  throw NoKernelError(
      "[gpu::mix] expected attention or a delta net, found a gated convolution, which no kernel of "
      "a device does; the CPU's do");
}

}  // namespace moeflux::ops
