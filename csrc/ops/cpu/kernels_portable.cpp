#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_portable.h"
#define MOEFLUX_ISA_NAME "portable"
#define MOEFLUX_GEMM_FROM 16
#include "ops/cpu/kernels.inc"

namespace moeflux::ops::cpu {
const Kernels& kernels_portable() {
  return kTable;
}
}  // namespace moeflux::ops::cpu
