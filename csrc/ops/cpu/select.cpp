#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <cstring>
#include <iterator>
#include <string>

#include "base/error.h"
#include "ops/cpu/kernels.h"

// Best first, each with its family: rows of kernels.cmake.
#if defined(__x86_64__)
#define EACH_NATIVE_ISA(ISA) \
  ISA(avx512, amx)           \
  ISA(avx512, avx512_bf16)   \
  ISA(avx512, avx512_vnni)   \
  ISA(avx512, avx512)        \
  ISA(avx2, avx2_vnni)       \
  ISA(avx2, avx2)
#elif defined(__aarch64__)
#define EACH_NATIVE_ISA(ISA) ISA(neon, neon_i8mm) ISA(neon, neon_dotprod) ISA(neon, neon)
#else
#define EACH_NATIVE_ISA(ISA)
#endif
#define EACH_ISA(ISA) EACH_NATIVE_ISA(ISA) ISA(portable, portable)

namespace moeflux::ops::cpu {

#define ISA(family, name) const Kernels* kernels_##name();
EACH_ISA(ISA)
#undef ISA

namespace {
#if defined(__x86_64__)
// With FMA and F16C. CPUID 1, ECX bit 29: clang's names lack the latter.
bool has_avx2() {
  uint32_t eax = 1, ebx, ecx = 0, edx;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx >> 29 & 1);
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
// CPUID 7.1, EAX bit 4: not among GCC 12's names.
bool has_avx2_vnni() {
  uint32_t eax = 7, ebx, ecx = 1, edx;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return has_avx2() && (eax >> 4 & 1);
}
#elif defined(__aarch64__)
bool has_neon() {
  return true;
}
#ifdef __linux__
bool has_neon_dotprod() {
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
}
bool has_neon_i8mm() {
  constexpr unsigned long kAll = HWCAP2_I8MM | HWCAP2_BF16;
  return has_neon_dotprod() && (getauxval(AT_HWCAP2) & kAll) == kAll;
}
#elif defined(__APPLE__)
bool has_feature(const char* name) {  // false also where the system does not know the name
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_neon_dotprod() {
  return has_feature("hw.optional.arm.FEAT_DotProd");
}
bool has_neon_i8mm() {
  return has_neon_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM") &&
         has_feature("hw.optional.arm.FEAT_BF16");
}
#else
bool has_neon_dotprod() {
  return false;
}
bool has_neon_i8mm() {
  return false;
}
#endif
#endif
bool has_portable() {
  return true;
}

struct Choice {
  const char* family;
  bool (*runs)();
  const Kernels* (*table)();  // null where the compiler could not build it
};
constexpr Choice kChoices[] = {
#define ISA(family, name) {#family, has_##name, kernels_##name},
    EACH_ISA(ISA)
#undef ISA
};

std::string families() {
  std::string names;
  for (const Choice& choice : kChoices) {
    const bool last = &choice + 1 == std::end(kChoices);
    if (!names.ends_with(choice.family))
      names += cat(names.empty() ? "" : last ? " or " : ", ", choice.family);
  }
  return names;
}
}  // namespace

const Kernels& select_kernels(const char* forced) {
  const bool any = forced == nullptr || *forced == 0;
  for (const Choice& choice : kChoices)
    if (any || std::strcmp(choice.family, forced) == 0)
      if (const Kernels* table = choice.runs() ? choice.table() : nullptr) return *table;
  throw FormatError("[ops::cpu] MOEFLUX_SIMD: expected ", families(),
                    ", as this machine has it, found '", forced, "'");
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> tables;
  for (const Choice& choice : kChoices)
    if (const Kernels* table = choice.runs() ? choice.table() : nullptr) tables.push_back(table);
  return tables;
}

}  // namespace moeflux::ops::cpu
