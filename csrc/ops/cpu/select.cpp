#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
bool has_avx512_bf16() {
  return has_avx512_vnni() && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512bf16");
}
// Tiles need the system's consent, once a process.
bool has_amx() {
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch/x86/include/uapi/asm/prctl.h
  uint32_t eax = 7, ebx, ecx = 0, edx;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr uint32_t kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  return has_avx512_bf16() && (edx & kAmxTile) && (edx & kAmxInt8) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
bool has_avx2_vnni() {  // CPUID 7.1, EAX bit 4: not among GCC 12's names
  uint32_t eax = 7, ebx, ecx = 1, edx;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return has_avx2() && (eax >> 4 & 1);
}
#endif

struct Choice {
  const char* family;
  bool (*runs)();
  const Kernels* (*table)();
};
const Kernels* portable() {
  return &kernels_portable();
}
constexpr Choice kChoices[] = {
// best first
#if defined(__x86_64__)
    {"avx512", has_amx, kernels_amx},
    {"avx512", has_avx512_bf16, kernels_avx512_bf16},
    {"avx512", has_avx512_vnni, kernels_avx512_vnni},
    {"avx512", has_avx512, kernels_avx512},
    {"avx2", has_avx2_vnni, kernels_avx2_vnni},
    {"avx2", has_avx2, kernels_avx2},
#endif
    {"portable", [] { return true; }, portable},
};
}  // namespace

const Kernels& select_kernels(const char* forced) {
  const bool any = forced == nullptr || *forced == 0;
  for (const Choice& choice : kChoices)
    if (any || std::strcmp(choice.family, forced) == 0)
      if (const Kernels* table = choice.runs() ? choice.table() : nullptr) return *table;
  throw FormatError(
      "[ops::cpu] MOEFLUX_SIMD: expected avx512, avx2 or portable, as this machine "
      "has it, found '" +
      std::string(forced) + "'");
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> tables;
  for (const Choice& choice : kChoices)
    if (const Kernels* table = choice.runs() ? choice.table() : nullptr) tables.push_back(table);
  return tables;
}

}  // namespace moeflux::ops::cpu
