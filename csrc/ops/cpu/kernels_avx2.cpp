#include "ops/cpu/kernels.h"
#ifdef __AVX2__
#define MOEFLUX_ISA avx2
#define MOEFLUX_TILE_ROWS 2
#define MOEFLUX_TILE_TOKENS 2
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
