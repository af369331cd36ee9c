// Executor: runs a dispatch of a translated shader on the calling thread. The one way in for the
// host device and for the stand-in Metal framework of the tests. Knows no queue and no buffer
// objects, only memory.
#pragma once
#include <cstdint>
#include <span>

#include "device/host/kernel.h"
#include "device/host/scheduler.h"
#include "device/host/threadgroup_memory.h"

namespace moeflux::device::host {

struct Launch {
  const KernelInfo& info;
  std::span<const uint64_t> constants;  // in the order of info.constants
  // By binding: the memory of a buffer (null where none is bound), the value of a scalar. Sizes
  // are the caller's to check (check.h).
  std::span<void* const> arguments;
  Size grid, threadgroup;  // threads, none 0, at most 1024 a threadgroup
  uint32_t seed = 0;       // 0: everything in order; else one of many legal schedules
};

// One thread's: keeps the stacks of the fibers from one launch to the next.
class Executor {
 public:
  // Throws GpuError that names kernel and threadgroup: threads that diverge at a barrier or a
  // SIMD-group function, threadgroup memory written out of bounds.
  void run(const Launch& launch);

 private:
  void run_group(const Kernel& kernel, const Group& group);

  Scheduler scheduler_;
  ThreadgroupMemory memory_;
};

}  // namespace moeflux::device::host
