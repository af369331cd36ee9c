// Recorder: kernels of the library dispatched over memory of the arena, into the command buffer
// that the next submit() commits. Knows pointers, kernels and counts; no stage. One thread.
#pragma once
#include <array>
#include <bit>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "device/check.h"
#include "ops/gpu/arguments.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/staging.h"
#include "ops/ops.h"

namespace moeflux::ops::gpu {

uint32_t word(uint64_t value);  // throws GpuError for more than 32 bits hold
device::Argument u32(uint64_t value);
device::Argument f32(float value);

class Recorder {
 public:
  struct Kernel {
    std::string_view name;
    const char* constant = nullptr;  // a function constant that it needs, and its value
    uint32_t value = 0;
    auto operator<=>(const Kernel&) const = default;
  };
  using Kernels = std::set<Kernel>;

  // With `rehearsed`, nothing is placed or dispatched: the kernels that would be are added to it.
  explicit Recorder(DeviceArena& arena, Kernels* rehearsed = nullptr)
      : device_(arena.device()), arena_(arena), rehearsed_(rehearsed) {}

  // Arguments from the arena's memory: `count` elements from `data` on. A null pointer: none given.
  template <class T>
  device::Argument in(const T* data, uint64_t count) const {
    return place(data, count * sizeof(T), DeviceArena::Access::read);
  }
  template <class T>
  device::Argument out(T* data, uint64_t count) const {
    return place(data, count * sizeof(T), DeviceArena::Access::write);
  }
  device::Argument list(std::span<const uint32_t> values) {  // copied now, read by the device later
    return rehearsed_ ? Place{} : in(staging_.put(values), values.size());
  }

  using Arguments = std::span<const device::Argument>;
  using Listed = std::initializer_list<device::Argument>;
  // Of the geometry that the binding table gives for these scalars.
  void run(const Kernel& kernel, Arguments args);
  void run(const Kernel& kernel, Listed args) { run(kernel, Arguments(args.begin(), args.size())); }
  // The same with the kernel's struct, whose fields the table has one by one.
  template <class Fields>
  void run(const Kernel& kernel, std::vector<device::Argument> args, const Fields& fields) {
    using Words = std::array<uint32_t, sizeof(Fields) / sizeof(uint32_t)>;
    for (const uint32_t bits : std::bit_cast<Words>(fields))
      args.emplace_back(device::Scalar{bits});
    run(kernel, Arguments(args));
  }
  // Of `groups` threadgroups of the default size: where the table would go by the length of a
  // buffer, which here goes on to the end of a block.
  void run_groups(const Kernel& kernel, uint64_t groups, Listed args);
  // Of `threads` threads.
  void run_threads(const Kernel& kernel, uint64_t threads, Listed args);

  std::unique_ptr<Ticket> submit(std::function<void()> on_done);
  void abandon();
  const Counts& counts() const { return counts_; }
  void reserve_lists(uint64_t words) { staging_ = Staging(arena_, words); }

  DeviceArena& arena() const { return arena_; }
  const device::Device& device() const { return device_; }
  const std::shared_ptr<device::Pipeline>& pipeline(const Kernel& kernel);

 private:
  device::Argument place(const void* data, uint64_t nbytes, DeviceArena::Access access) const;
  template <class GeometryOf>
  void dispatch(const Kernel& kernel, Arguments args, GeometryOf geometry_of);

  device::Device& device_;
  DeviceArena& arena_;
  Kernels* const rehearsed_;
  Staging staging_;
  std::shared_ptr<device::Commands> commands_;  // being recorded; null: nothing yet
  Counts counts_, recorded_;                    // submitted, and of commands_
  std::map<std::pair<std::string_view, uint32_t>, std::shared_ptr<device::Pipeline>> pipelines_;
};

}  // namespace moeflux::ops::gpu
