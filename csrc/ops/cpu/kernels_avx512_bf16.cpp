#include "ops/cpu/kernels.h"
#ifdef __AVX512BF16__
#define MOEFLUX_ISA_HEADER "ops/cpu/simd/isa_avx512.h"
#define MOEFLUX_ISA_NAME "avx512_bf16"
#define MOEFLUX_GEMM_FROM 8
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AVX512BF16__
const Kernels* kernels_avx512_bf16() {
  return &kTable;
}
#else
const Kernels* kernels_avx512_bf16() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
