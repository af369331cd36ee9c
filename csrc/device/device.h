// Device: all that the engine needs of a GPU. Metal-shaped, without Objective-C. Implementations:
// metal/ (Apple's framework, or the stand-in that tests link) and host/ (the same shaders on the
// CPU). Knows kernels by name; knows no layer and no op.
//
// Threads: Device is thread-safe. A Commands belongs to one thread until commit(); afterwards
// done(), wait() and completed handlers may be used from any.
// Order: within one Commands, a dispatch sees all writes of those before it (a serial encoder).
// Command buffers of one Device run in the order of their commits.
// Lifetime: Commands keeps the buffers and pipelines that it was given until it has completed.
// Errors: misuse throws at the call. What the device itself reports (a fault, a time-out) is stored
// and thrown by the next wait(), as GpuError.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "device/kernel_table.h"

namespace moeflux::device {

struct Limits {
  uint64_t max_buffer_bytes = 0;
  uint64_t working_set_bytes = 0;  // recommendedMaxWorkingSetSize; 0: no advice
  uint32_t max_threads = 1024;     // a threadgroup
  uint32_t threadgroup_bytes = 32768;
  uint64_t page_bytes = 16384;  // wrap() wants addresses and sizes that are multiples of it
  bool unified_memory = true;   // false: Buffer::contents() may be null
  // How long a dispatch and a command buffer should hold the device at most, where the system ends
  // what holds it for long; 0: as long as they like.
  uint64_t dispatch_ns = 0, buffer_ns = 0;
  bool simdgroup_matrices = true;  // kernels may use matrices of a SIMD group: family Apple7, M1
};

class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* contents() const = 0;  // null where the CPU cannot reach it
  virtual uint64_t nbytes() const = 0;
  virtual uint64_t address() const = 0;  // as kernels know it
  // Of a list that Device::addresses made: the buffers in it.
  std::span<const std::shared_ptr<Buffer>> reaches() const { return reaches_; }
  bool is_list() const { return is_list_; }  // which may reach none

 private:
  friend class Device;
  std::vector<std::shared_ptr<Buffer>> reaches_;
  bool is_list_ = false;
};

// Bytes [offset, offset + nbytes), or up to the buffer's end; an empty pointer: no buffer (unused
// binding).
struct Slice {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint64_t nbytes = UINT64_MAX;
};
struct Scalar {
  uint32_t bits = 0;  // of a f32, u32 or i32
};
using Argument = std::variant<Slice, Scalar>;
using Constants = std::vector<std::pair<std::string, uint32_t>>;  // function constants by name

class Pipeline {
 public:
  virtual ~Pipeline() = default;
  virtual const KernelInfo& info() const = 0;
  virtual std::span<const uint64_t> constants() const = 0;  // by function constant, defaults in
  virtual uint32_t max_threads() const = 0;                 // a threadgroup
};

class Commands {
 public:
  virtual ~Commands() = default;
  // Arguments by binding; grid in threads (a ragged last threadgroup is allowed). Checked
  // against the binding table first (check.h): throws FormatError, or GpuError when already
  // committed.
  virtual void dispatch(const std::shared_ptr<Pipeline>& pipeline, std::span<const Argument> args,
                        Size grid, Size threadgroup) = 0;
  // Called once on a thread of the device, also after a failure. Before commit() only. done() is
  // true by then, buffers have been let go, and wait() returns only when all handlers have.
  virtual void on_completed(std::function<void()> handler) = 0;
  // The same for whoever wakes a thread that waits: called when wait() returns at once. No wait is
  // for its end, and what it throws is lost.
  virtual void on_settled(std::function<void()> handler) = 0;
  virtual void commit() = 0;
  virtual bool done() const = 0;
  virtual bool wait_for(uint64_t timeout_ns) = 0;  // true when done; throws the stored GpuError
  // Time on the device; 0: it has not run. REQUIRES: done()
  virtual uint64_t gpu_ns() const = 0;

  void wait() {
    while (!wait_for(UINT64_C(1) << 62)) {
    }
  }
};

// Kernels of somebody's own source. Of their arguments nothing is known but that they are buffers
// and 32-bit scalars, by buffer index: what they reach is not checked.
class OwnLibrary {
 public:
  virtual ~OwnLibrary() = default;
  // Throws KernelNotFoundError, PipelineError. It keeps the library.
  virtual std::shared_ptr<Pipeline> pipeline(std::string_view kernel) = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view kind() const = 0;  // "metal", "host"
  virtual const std::string& name() const = 0;
  virtual const Limits& limits() const = 0;
  // Zero-filled. Throws GpuError when nbytes passes the limit or there is no memory.
  virtual std::shared_ptr<Buffer> buffer(uint64_t nbytes) = 0;
  // The caller's memory as a buffer, without a copy; `on_free` is called when the device is through
  // with it. REQUIRES: address and nbytes multiples of limits().page_bytes (FormatError).
  virtual std::shared_ptr<Buffer> wrap(std::byte* data, uint64_t nbytes,
                                       std::function<void()> on_free) = 0;
  // (address, bytes) of each buffer, both u64, (0, 0) for a null pointer: for kernels that reach
  // memory which they are not bound to. The list keeps the buffers. A kernel reads them through it,
  // never writes. Throws as buffer() does.
  std::shared_ptr<Buffer> addresses(std::span<const std::shared_ptr<Buffer>> buffers);
  // Compiled on first request, then cached by name and constants. Throws KernelNotFoundError,
  // LibraryCompileError, PipelineError.
  virtual std::shared_ptr<Pipeline> pipeline(std::string_view kernel,
                                             const Constants& constants = {}) = 0;
  virtual size_t pipeline_count() const = 0;
  // Threads of the largest threadgroup that the compiler allows when it is told none; 0: this device
  // has no compiler. Compiles it anew. Throws as pipeline() does.
  virtual uint32_t untold_threads(std::string_view) { return 0; }
  // Throws LibraryCompileError with the compiler's text; GpuError: this device has no compiler.
  virtual std::shared_ptr<OwnLibrary> compile(std::string_view source);
  // From begin_capture() to end_capture() what any queue of the GPU does is recorded into a new
  // ".gputrace" document. Throws GpuError, also for a device that records none.
  virtual void begin_capture(const std::string& path);
  virtual void end_capture() {}
  virtual std::unique_ptr<Commands> commands() = 0;
};

std::unique_ptr<Device> open_host();
// Throws NoDeviceError that says why there is none.
std::unique_ptr<Device> open_metal();

// What a build can open, in order of preference. Python takes its names from here, too.
struct Kind {
  const char* name;
  bool is_gpu;  // false: the CPU stands in for one
  std::unique_ptr<Device> (*open)();
};
inline constexpr Kind kKinds[] = {{"metal", true, open_metal}, {"host", false, open_host}};

}  // namespace moeflux::device
