#include "ops/cpu/kernels.h"
#ifdef __AVX512VNNI__
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_avx512.h"
#define MOEFLUX_ISA_NAME "avx512_vnni"
#define MOEFLUX_GEMM_FROM 8
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AVX512VNNI__
const Kernels* kernels_avx512_vnni() {
  return &kTable;
}
#else
const Kernels* kernels_avx512_vnni() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
