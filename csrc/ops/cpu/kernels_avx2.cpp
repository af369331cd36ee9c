#include "ops/cpu/kernels.h"
#ifdef __AVX2__
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_avx2.h"
#define MOEFLUX_ISA_NAME "avx2"
#define MOEFLUX_GEMM_FROM 8
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AVX2__
const Kernels* kernels_avx2() {
  return &kTable;
}
#else
const Kernels* kernels_avx2() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
