#include "ops/cpu/kernels.h"
#ifdef __AVX512BW__
#include <immintrin.h>
#define MOEFLUX_ISA avx512
#define MOEFLUX_TILE_ROWS 4
#define MOEFLUX_TILE_TOKENS 4
#include "ops/cpu/kernels.inc"
#endif

namespace moeflux::ops::cpu {
#ifdef __AVX512BW__
const Kernels* kernels_avx512() {
  return &kTable;
}
#else
const Kernels* kernels_avx512() {
  return nullptr;
}
#endif
}  // namespace moeflux::ops::cpu
