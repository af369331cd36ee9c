#include "ops/cpu/kernels.h"
#ifdef __AMX_INT8__
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_avx512.h"
#define MOEFLUX_ISA_NAME "amx"
#define MOEFLUX_GEMM_FROM 4
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AMX_INT8__
const Kernels* kernels_amx() {
  return &kTable;
}
#else
const Kernels* kernels_amx() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
