// What the sanitizers must be told about fibers and threadgroup memory; nothing without them.
// Thread sanitizer: the shaders are instrumented, the files of the executor are not (its own
// switching would look like races), so the build says MOEFLUX_TSAN_FIBERS where the rest uses it.
#pragma once
#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOEFLUX_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define MOEFLUX_ASAN 1
#endif

#if defined(MOEFLUX_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(MOEFLUX_TSAN_FIBERS)
#include <sanitizer/tsan_interface.h>
#endif

namespace moeflux::device::host {

#if defined(MOEFLUX_TSAN_FIBERS)
inline constexpr bool kTsan = true;
inline void tsan_acquire(void* object) {
  __tsan_acquire(object);
}
inline void tsan_release(void* object) {
  __tsan_release(object);
}
#else
inline constexpr bool kTsan = false;
inline void tsan_acquire(void*) {}
inline void tsan_release(void*) {}
#endif

#if defined(MOEFLUX_ASAN)
inline constexpr bool kAsan = true;
inline void asan_forbid(const void* data, size_t nbytes) {
  __asan_poison_memory_region(data, nbytes);
}
inline void asan_allow(const void* data, size_t nbytes) {
  __asan_unpoison_memory_region(data, nbytes);
}
#else
inline constexpr bool kAsan = false;
inline void asan_forbid(const void*, size_t) {}
inline void asan_allow(const void*, size_t) {}
#endif

}  // namespace moeflux::device::host
