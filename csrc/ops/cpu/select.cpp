#include <cstring>
#include <string>

#include "base/error.h"
#include "ops/cpu/kernels.h"

namespace moeflux::ops::cpu {

namespace {
#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#else
bool has_avx2() {
  return false;
}
bool has_avx512() {
  return false;
}
#endif
}  // namespace

const Kernels& select_kernels(const char* forced) {
  const Kernels* avx512 = has_avx512() ? kernels_avx512() : nullptr;
  const Kernels* avx2 = has_avx2() ? kernels_avx2() : nullptr;
  if (forced == nullptr || *forced == 0)
    return avx512 ? *avx512 : avx2 ? *avx2 : kernels_portable();
  if (std::strcmp(forced, "portable") == 0) return kernels_portable();
  if (avx2 && std::strcmp(forced, "avx2") == 0) return *avx2;
  if (avx512 && std::strcmp(forced, "avx512") == 0) return *avx512;
  throw FormatError(
      "[ops::cpu] MOEFLUX_SIMD: expected avx512, avx2 or portable, as this machine "
      "has it, found '" +
      std::string(forced) + "'");
}

}  // namespace moeflux::ops::cpu
