#include "ops/cpu/kernels.h"
#ifdef __AVXVNNI__
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_avx2.h"
#define MOEFLUX_ISA_NAME "avx2_vnni"
#define MOEFLUX_GEMM_FROM 8
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AVXVNNI__
const Kernels* kernels_avx2_vnni() {
  return &kTable;
}
#else
const Kernels* kernels_avx2_vnni() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
