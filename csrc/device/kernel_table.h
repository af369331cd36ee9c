// The binding tables of the shader library: what each kernel takes, and the only source that host
// code, both devices and Backend.dispatch use, so that a shader and its callers cannot drift apart.
// Generated at build time by tools/msl from shaders/: parameter lists give names, types and
// constness, the `@` lines of a kernel's comment give sizes, legal threadgroups and geometry.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace moeflux::device {

inline constexpr size_t kMostBindings = 31;  // of a kernel: Metal feature set tables

using Size = std::array<uint32_t, 3>;  // x, y, z

// bf16: by bit pattern, uint16. u64: a list of Device::addresses, and nothing else.
enum class Type : uint8_t { f32, f16, bf16, u32, i32, u8, u64 };

constexpr uint32_t type_bytes(Type type) {
  constexpr uint32_t kBytes[] = {4, 2, 2, 4, 4, 1, 8};
  return kBytes[static_cast<uint8_t>(type)];
}

// What a size expression may ask about one dispatch. Values are those of the caller, unchecked.
struct Call {
  std::span<const uint64_t> scalars;    // by binding; 0 where the binding is a buffer
  std::span<const uint64_t> lengths;    // by binding: elements of the buffer given; 0: none given
  std::span<const uint64_t> constants;  // by function constant
  // by binding: largest value of a u32 buffer whose contents the expression needs, among the
  // elements that the kernel reads, else 0
  std::span<const uint64_t> maxima;
  Size grid = {0, 0, 0};  // threads
  Size threadgroup = {0, 0, 0};
};

using Wide = unsigned __int128;
// The result where an expression has no value: a division by zero, a difference below zero, an
// overflow. Sticky, and larger than any size, so that a check that meets it refuses.
inline constexpr Wide kNoValue = ~Wide{0};
using Expression = Wide (*)(const Call&);

struct Binding {
  const char* name;
  Type type;
  bool scalar = false;         // constant T&, or a field of a struct
  bool writable = false;       // device T* without const
  bool needs_maximum = false;  // some expression uses maxof(name)
  uint32_t alignment = 0;      // bytes: of a float4 16; a buffer's offset is a multiple of it
  // At least this many elements are read or written; 0: the buffer may be left out (None).
  Expression elements = nullptr;  // null for scalars
  // What an offset is a multiple of beside `alignment`, in bytes; null: nothing.
  Expression aligned = nullptr;
};

struct FunctionConstant {
  const char* name;
  uint32_t index;
  uint32_t value;  // the default
};

struct Requirement {  // a real limit of the kernel
  Expression holds;
  const char* text;  // the expression as the shader states it
};

enum class Threadgroups : uint8_t { any, simd_multiple, exact };  // legal threads a threadgroup

struct KernelInfo {
  const char* name;
  const char* file;                   // of shaders/
  bool contract;                      // published: moeflux.ALL_KERNELS
  std::span<const Binding> bindings;  // by buffer index, up to first_field
  std::span<const FunctionConstant> constants;
  std::span<const Requirement> requirements;
  uint32_t threadgroup_bytes;  // static threadgroup memory
  Threadgroups threadgroups;
  uint32_t exact_threads;  // where threadgroups == exact
  uint32_t dimensions;     // of the grid that the kernel tells apart: 1 to 3
  // Geometry of a call that leaves it out, x only; null: it must be given.
  Expression default_grid, default_threadgroup;
  // The bindings from this one on are the fields of one struct, which has this buffer index: each is
  // a word. None has more than 31 bindings.
  uint32_t first_field = UINT32_MAX;
  // Threads of the largest legal threadgroup: fewer than the device can leave the compiler registers.
  uint32_t largest_threads = UINT32_MAX;
  bool is_own = false;  // of an OwnLibrary: nothing else is known of it
};

std::span<const KernelInfo> kernel_table();            // alphabetical
const KernelInfo* find_kernel(std::string_view name);  // null: no such kernel

}  // namespace moeflux::device
