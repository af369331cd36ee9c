#include "ops/mixers/mamba2.h"

#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

void mix(gpu::GpuOps&, const Mamba2&, Segments, const Rows&, float*) {
  throw NoKernelError(
      "[gpu::mix] expected attention or a delta net, found Mamba-2, which no kernel of a device "
      "does; the CPU's do");
}

}  // namespace moeflux::ops
