// Barriers and SIMD-group functions: each is a call of the executor, with its place in the shader.
// All threads of a SIMD group (a threadgroup) must arrive; the executor reports it if they do not.
#pragma once
#include <cstring>

#include "device/host/kernel.h"
#include "device/host/msl/math.h"

// Values of other threads are read while these wait; thread sanitizer would take that for a race.
#define MOEFLUX_NOT_TSAN __attribute__((no_sanitize("thread")))
#define MOEFLUX_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace metal {

namespace host = moeflux::device::host;

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}

inline void threadgroup_barrier(mem_flags, MOEFLUX_SITE) {
  host::barrier({file, line});
}
inline void simdgroup_barrier(mem_flags, MOEFLUX_SITE) {
  host::simdgroup_barrier({file, line});
}

namespace detail {
struct Add {
  template <class T>
  static T of(T a, T b) {
    return a + b;
  }
};
struct Larger {
  template <class T>
  static T of(T a, T b) {
    return metal::max(a, b);
  }
};
struct Smaller {
  template <class T>
  static T of(T a, T b) {
    return metal::min(a, b);
  }
};
struct Either {
  template <class T>
  static T of(T a, T b) {
    return a | b;
  }
};
struct Both {
  template <class T>
  static T of(T a, T b) {
    return a & b;
  }
};

// A tree over the lanes, so that sums round about as they do on the GPU.
template <class T, class Operation>
MOEFLUX_NOT_TSAN void reduce(const host::Exchange& exchange) {
  T values[host::kSimdWidth];
  uint32_t count = exchange.lanes;
  for (uint32_t i = 0; i < count; ++i) values[i] = *static_cast<const T*>(exchange.in[i]);
  while (count > 1) {
    const uint32_t half = (count + 1) / 2;
    for (uint32_t i = 0; i + half < count; ++i)
      values[i] = Operation::of(values[i], values[i + half]);
    count = half;
  }
  for (uint32_t i = 0; i < exchange.lanes; ++i) *static_cast<T*>(exchange.out[i]) = values[0];
}

template <class T, bool inclusive>
MOEFLUX_NOT_TSAN void prefix_sum(const host::Exchange& exchange) {
  T sum = T(0);
  for (uint32_t i = 0; i < exchange.lanes; ++i) {
    const T value = *static_cast<const T*>(exchange.in[i]);
    *static_cast<T*>(exchange.out[i]) = inclusive ? T(sum + value) : sum;
    sum = T(sum + value);
  }
}

template <class T>
struct Sent {
  T value;
  uint32_t from;  // the lane whose value is asked for
};
template <class T>
MOEFLUX_NOT_TSAN void shuffle(const host::Exchange& exchange) {
  for (uint32_t i = 0; i < exchange.lanes; ++i) {
    const uint32_t from = static_cast<const Sent<T>*>(exchange.in[i])->from;
    T& out = *static_cast<T*>(exchange.out[i]);
    if (from < exchange.lanes)
      out = static_cast<const Sent<T>*>(exchange.in[from])->value;
    else  // undefined in Metal: a NaN, to be noticed
      std::memset(static_cast<void*>(&out), 0xff, sizeof out);
  }
}

template <class T>
T exchanged(host::Collective function, T value, host::Site site) {
  T result;
  host::collective(function, &value, &result, site);
  return result;
}
template <class T>
T sent(T value, uint32_t from, host::Site site) {
  const Sent<T> message{value, from};
  T result;
  host::collective(&shuffle<T>, &message, &result, site);
  return result;
}
}  // namespace detail

template <class T>
T simd_sum(T value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::reduce<T, detail::Add>, value, {file, line});
}
template <class T>
T simd_max(T value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::reduce<T, detail::Larger>, value, {file, line});
}
template <class T>
T simd_min(T value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::reduce<T, detail::Smaller>, value, {file, line});
}
template <class T>
T simd_prefix_inclusive_sum(T value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::prefix_sum<T, true>, value, {file, line});
}
template <class T>
T simd_prefix_exclusive_sum(T value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::prefix_sum<T, false>, value, {file, line});
}
inline bool simd_any(bool value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::reduce<uint, detail::Either>, uint(value), {file, line}) != 0;
}
inline bool simd_all(bool value, MOEFLUX_SITE) {
  return detail::exchanged(&detail::reduce<uint, detail::Both>, uint(value), {file, line}) != 0;
}
template <class T>
T simd_shuffle(T value, ushort from, MOEFLUX_SITE) {
  return detail::sent(value, from, {file, line});
}
template <class T>
T simd_broadcast(T value, ushort from, MOEFLUX_SITE) {
  return detail::sent(value, from, {file, line});
}
template <class T>
T simd_shuffle_xor(T value, ushort mask, MOEFLUX_SITE) {
  return detail::sent(value, host::lane({file, line}) ^ mask, {file, line});
}
template <class T>
T simd_shuffle_down(T value, ushort delta, MOEFLUX_SITE) {
  return detail::sent(value, host::lane({file, line}) + delta, {file, line});
}
template <class T>
T simd_shuffle_up(T value, ushort delta, MOEFLUX_SITE) {
  return detail::sent(value, host::lane({file, line}) - delta, {file, line});
}

}  // namespace metal
#undef MOEFLUX_SITE
#undef MOEFLUX_NOT_TSAN
