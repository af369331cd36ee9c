#include "ops/cpu/kernels.h"
#ifdef __ARM_FEATURE_MATMUL_INT8
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_neon.h"
#define MOEFLUX_ISA_NAME "neon_i8mm"
#define MOEFLUX_GEMM_FROM 8  // as AVX2: not measured
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __ARM_FEATURE_MATMUL_INT8
const Kernels* kernels_neon_i8mm() {
  return &kTable;
}
#else
const Kernels* kernels_neon_i8mm() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
