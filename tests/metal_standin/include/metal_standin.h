// What tests see of the stand-in beside Metal's own interface: kernels, faults, the schedule,
// violations and counters. No Objective-C here. Thread-safe.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "device/kernel_table.h"

#define METAL_STANDIN_API __attribute__((visibility("default")))

namespace metal_standin {

inline constexpr size_t kMaxBindings = 31;  // Metal feature set tables: buffer argument entries

struct Bound {                // what is bound to one index: a buffer from its offset on, or bytes
  std::byte* data = nullptr;  // null: nothing
  uint64_t nbytes = 0;
};

struct Launch {  // one dispatch, as a kernel sees it
  std::array<Bound, kMaxBindings> bound;
  std::vector<uint64_t> constants;  // by function constant of the kernel's table
  moeflux::device::Size grid, threadgroup;

  template <class T>
  T* at(size_t index) const {
    return reinterpret_cast<T*>(bound[index].data);
  }
  uint64_t threads() const { return uint64_t(grid[0]) * grid[1] * grid[2]; }
};

struct Kernel {
  const moeflux::device::KernelInfo* info;  // outlives the process's use of the stand-in
  // Runs all threads of the dispatch. What it throws becomes a page fault of the command buffer.
  std::function<void(const Launch&)> run;
};
// Replaces one of the same name. A library has the kernels that its source defines and that are
// registered.
METAL_STANDIN_API void register_kernel(Kernel kernel);

enum class Fault {
  device,          // MTLCreateSystemDefaultDevice
  queue,           // newCommandQueue
  buffer,          // newBuffer...
  library,         // newLibraryWithSource
  function,        // newFunctionWithName
  pipeline,        // newComputePipelineState...
  simd_width,      // a pipeline of another threadExecutionWidth
  command_buffer,  // commandBuffer...
  encoder,         // computeCommandEncoder...
  execution,       // a dispatch on the GPU
  timeout,         // the same, and from then on the queue ignores what it is given
  interactivity,   // the same, with another reason
  residency,       // newResidencySet...
  family,          // supportsFamily: the device is older
};
// The call of that kind that comes after `after` good ones fails, once.
METAL_STANDIN_API void inject(Fault fault, int after = 0);
METAL_STANDIN_API void clear_faults();

struct Schedule {
  uint64_t seed = 1;                  // of the order within concurrent encoders, and of all delays
  uint32_t max_delay_us = 200;        // before a command buffer starts, and before its handlers
  uint32_t queue_timeout_ms = 10000;  // of a commandBuffer that a full queue makes wait
  bool tells_times = true;            // of command buffers that failed
  bool hold_requests = false;         // requestResidency returns when this is taken back
};
METAL_STANDIN_API void set_schedule(const Schedule& schedule);

struct CompileOptions {  // of the latest newLibraryWithSource
  uint64_t language_version = 0;
  bool fast_math = true;
  int64_t math_mode = -1;
};
METAL_STANDIN_API CompileOptions compile_options();

struct Residency {  // of all residency sets
  uint64_t requests = 0, commits = 0;
  long held = 0;     // requests that have not returned
  long members = 0;  // as of the last commits
};
METAL_STANDIN_API Residency residency();

// What Metal's validation layer would have stopped the process for, and hazards between dispatches
// that no barrier parts. Each has also been thrown (std::logic_error) or failed its command buffer.
METAL_STANDIN_API std::vector<std::string> take_violations();

METAL_STANDIN_API void quiesce();       // returns when no command buffer or handler is under way
METAL_STANDIN_API long live_objects();  // Objective-C objects and copied blocks alive

}  // namespace metal_standin

// The same for Python's ctypes. Faults by the names that the enumeration gives them; false: none of
// that name. Violations one a line, until the next call on this thread.
extern "C" {
METAL_STANDIN_API bool metal_standin_inject(const char* fault, int after);
METAL_STANDIN_API void metal_standin_clear_faults(void);
METAL_STANDIN_API const char* metal_standin_take_violations(void);
METAL_STANDIN_API long metal_standin_live_objects(void);  // once nothing is under way
}
