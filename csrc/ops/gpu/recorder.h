// Recorder: kernels of the library dispatched over memory of the arena, into the command buffer
// that the next submit() commits; in several, of which all but the last are committed before, where
// one would hold the device for too long. Knows pointers, kernels and counts; no stage. One thread.
#pragma once
#include <array>
#include <bit>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "device/check.h"
#include "ops/gpu/arguments.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/pace.h"
#include "ops/gpu/staging.h"
#include "ops/ops.h"

namespace moeflux::ops::gpu {

uint32_t word(uint64_t value);  // throws GpuError for more than 32 bits hold
device::Argument u32(uint64_t value);
device::Argument f32(float value);

class Recorder {
 public:
  using Kernel = Pace::Kernel;
  using Kernels = std::set<Kernel>;

  // With `rehearsed`, nothing is placed or dispatched: the kernels that would be are added to it.
  explicit Recorder(DeviceArena& arena, Kernels* rehearsed = nullptr)
      : device_(arena.device()),
        arena_(arena),
        rehearsed_(rehearsed),
        pace_(arena.device().limits()) {}
  ~Recorder() { abandon(); }

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

  // A dispatch that waits for the stage behind it, since one kernel may do both: made before the next
  // one is recorded, or at submit(). One waits at a time.
  void defer(std::function<void()> late) {
    flush();
    late_ = std::move(late);
  }
  void flush() {
    if (late_) std::exchange(late_, nullptr)();
  }
  void drop_deferred() { late_ = nullptr; }  // what is recorded now does its work

  // Multiply-adds of the next dispatch, which tell better than its threads how long it takes. Of a
  // kernel always or never.
  void weigh(uint64_t macs) { work_ = {macs, true}; }
  // Multiply-adds of one dispatch, at most, lest it hold the device for too long; one at least.
  uint64_t most_macs(const Kernel& kernel) const {
    return rehearsed_ ? UINT64_MAX : pace_.most_macs(kernel);
  }

  std::unique_ptr<Ticket> submit(std::function<void()> on_done);
  void abandon();
  const Counts& counts() const { return counts_; }
  void reserve_lists(uint64_t words) { staging_ = Staging(arena_, words); }

  DeviceArena& arena() const { return arena_; }
  const device::Device& device() const { return device_; }
  const std::shared_ptr<device::Pipeline>& pipeline(const Kernel& kernel);

 private:
  device::Argument place(const void* data, uint64_t nbytes, DeviceArena::Access access) const;
  // A command buffer that was committed, until its time is learnt.
  struct Timed {
    std::shared_ptr<device::Commands> commands;
    std::vector<Pace::Part> parts;
  };
  void commit_part();
  void learn();
  template <class GeometryOf>
  void dispatch(const Kernel& kernel, Arguments args, GeometryOf geometry_of);

  device::Device& device_;
  DeviceArena& arena_;
  Kernels* const rehearsed_;
  Staging staging_;
  std::shared_ptr<device::Commands> commands_;            // being recorded; null: nothing yet
  std::vector<std::shared_ptr<device::Commands>> parts_;  // committed, of this recording
  std::function<void()> late_;                            // deferred; null: nothing
  Pace pace_;
  Work work_;                        // of the next dispatch, where it was said
  double recorded_ns_ = 0;           // expected of commands_
  std::vector<Pace::Part> to_time_;  // dispatches of commands_
  std::deque<Timed> timed_;          // by time of commit
  Counts counts_, recorded_;         // submitted, and of commands_
  std::map<Kernel, std::shared_ptr<device::Pipeline>> pipelines_;
};

}  // namespace moeflux::ops::gpu
