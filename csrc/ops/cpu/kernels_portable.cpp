#define MOEFLUX_ISA portable
#define MOEFLUX_TILE_ROWS 1
#define MOEFLUX_TILE_TOKENS 2
#include "ops/cpu/kernels.inc"

namespace moeflux::ops::cpu {
const Kernels& kernels_portable() {
  return kTable;
}
}  // namespace moeflux::ops::cpu
