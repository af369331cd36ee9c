#include "ops/cpu/kernels.h"
#ifdef __ARM_NEON
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_neon.h"
#define MOEFLUX_ISA_NAME "neon"
#define MOEFLUX_GEMM_FROM 8  // as AVX2: not measured
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __ARM_NEON
const Kernels* kernels_neon() {
  return &kTable;
}
#else
const Kernels* kernels_neon() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
