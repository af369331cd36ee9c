// The interface between the translated shaders (host_kernels.cpp, written by tools/msl) and the
// executor that runs them. msl/ holds the shaders' side of it: the <metal_stdlib> of this device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "device/kernel_table.h"

namespace moeflux::device::host {

inline constexpr uint32_t kSimdWidth = 32;  // of every Apple GPU; shaders/ relies on it

struct Thread {
  Size in_grid, in_group;  // position
  uint32_t index;          // in the threadgroup, linear
};

struct Group {
  void* const* buffers;  // by binding; fields of a struct lie side by side
  Size position;         // of this threadgroup
  Size threads;          // of this threadgroup: fewer than `full` at a ragged edge
  Size full, groups, grid;
};

struct ThreadgroupArray {
  const char* name;
  uint32_t offset, nbytes;  // in the memory that threadgroup_memory() gives
};

struct Kernel {
  const char* name;
  void (*run)(const Thread&, const Group&);
  // Sets the function constants of this OS thread; values in the order of KernelInfo::constants.
  void (*specialise)(std::span<const uint64_t>);
  bool synchronises;  // has barriers or SIMD-group functions
  std::span<const ThreadgroupArray> arrays;
};

std::span<const Kernel> kernels();                // alphabetical
const Kernel& kernel_of(const KernelInfo& info);  // its translation

// -- what a running shader calls

struct Site {  // a call in a shader
  const char* file;
  int line;
};

std::byte* threadgroup_memory();
void barrier(Site site);  // of the threadgroup
void simdgroup_barrier(Site site);
uint32_t lane(Site site);  // index in the SIMD group

// One SIMD-group function, reached by all `lanes` threads of a SIMD group: reads *in[i], writes
// *out[i].
struct Exchange {
  const void* in[kSimdWidth];
  void* out[kSimdWidth];
  uint32_t lanes;
};
using Collective = void (*)(const Exchange&);
void collective(Collective function, const void* in, void* out, Site site);

}  // namespace moeflux::device::host
