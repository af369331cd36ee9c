// What the wrappers of host_kernels.cpp use to bind arguments to kernels.
#pragma once
#include <cstddef>
#include <type_traits>

#include "device/host/kernel.h"
#include "device/host/msl/vector.h"

namespace moeflux::device::host {

template <class Function, size_t N>
struct ArgumentAt;
template <class First, class... Rest, size_t N>
struct ArgumentAt<void(First, Rest...), N> : ArgumentAt<void(Rest...), N - 1> {};
template <class First, class... Rest>
struct ArgumentAt<void(First, Rest...), 0> {
  using type = First;
};
template <class Function, size_t N>
using ArgumentOf = typename ArgumentAt<Function, N>::type;

template <class T>
T bound(void* data) {
  if constexpr (std::is_pointer_v<T>)
    return static_cast<T>(data);
  else
    return *static_cast<std::remove_reference_t<T>*>(data);
}

template <class T>
struct ElementOf {
  using type = T;
  static constexpr uint32_t width = 1;
};
template <class T, int N>
struct ElementOf<metal::vec<T, N>> {
  using type = T;
  static constexpr uint32_t width = N;
};

template <class T>
constexpr bool is_element(Type type) {
  switch (type) {
    case Type::f32:
      return std::is_same_v<T, float>;
    case Type::f16:
      return std::is_same_v<T, metal::half>;
    case Type::bf16:
      return std::is_same_v<T, metal::ushort>;
    case Type::u32:
      return std::is_same_v<T, metal::uint>;
    case Type::i32:
      return std::is_same_v<T, int>;
    case Type::u8:
      return std::is_same_v<T, metal::uchar>;
    case Type::u64:
      return std::is_same_v<T, metal::ulong>;
  }
  return false;
}

// Does the C++ parameter type T say what the kernel table says?
template <class T>
constexpr bool binds(Type type, bool scalar, bool writable, uint32_t width) {
  using Target = std::conditional_t<std::is_pointer_v<T>, std::remove_pointer_t<T>,
                                    std::remove_reference_t<T>>;
  using Element = ElementOf<std::remove_const_t<Target>>;
  return scalar == std::is_reference_v<T> && scalar != std::is_pointer_v<T> &&
         writable == !std::is_const_v<Target> && width == Element::width &&
         is_element<typename Element::type>(type);
}

inline uint32_t simdgroups(const Group& group) {
  const uint32_t threads = group.threads[0] * group.threads[1] * group.threads[2];
  return (threads + kSimdWidth - 1) / kSimdWidth;
}

}  // namespace moeflux::device::host
