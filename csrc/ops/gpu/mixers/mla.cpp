#include "ops/mixers/mla.h"

#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

void mix(gpu::GpuOps&, const Mla&, Segments, const Rows&, float*) {
  throw NoKernelError(
      "[gpu::mix] expected attention with keys and values, found latent attention, which no kernel "
      "of a device does; the CPU's do");
}

}  // namespace moeflux::ops
