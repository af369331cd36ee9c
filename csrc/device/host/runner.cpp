#include "device/host/runner.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "device/check.h"
#include "device/host/buffer.h"

namespace moeflux::device::host {

namespace {
thread_local const Running* running = nullptr;

struct RunningScope {
  explicit RunningScope(const Running& now) { running = &now; }
  ~RunningScope() { running = nullptr; }
};

void check_canaries(const KernelInfo& info, std::span<const Argument> args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const Slice* slice = std::get_if<Slice>(&args[i]);
    if (!slice || !slice->buffer || !info.bindings[i].writable) continue;
    if (!static_cast<const HostBuffer&>(*slice->buffer).intact())
      throw GpuError("[host::Runner] kernel ", info.name, ": argument ", i, " (",
                     info.bindings[i].name, ") was written out of bounds");
  }
}
}  // namespace

const Running* running_dispatch() {
  return running;
}

Runner::Runner(const Limits& limits, const Options& options)
    : limits_(limits), options_(options), random_(options.seed) {}

void Runner::run(const Recording& recording) {
  if (options_.max_delay_us)
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % options_.max_delay_us));
  const auto run_one = [&](const Recording::Dispatch& each) {
    dispatch(recording.args(each), each);
  };
  const auto dispatches = recording.dispatches();
  if (!options_.order)
    std::ranges::for_each(dispatches, run_one);
  else
    for (const size_t index : options_.order(recording, random_)) run_one(dispatches[index]);
}

void Runner::dispatch(std::span<const Argument> args, const Recording::Dispatch& dispatch) {
  const KernelInfo& info = dispatch.pipeline->info();
  try {
    // Again, since sizes may depend on contents that have changed since the recording.
    check_dispatch(*dispatch.pipeline, limits_, args, {dispatch.grid, dispatch.threadgroup});
  } catch (const FormatError& error) {
    throw GpuError(error.what());
  }
  std::vector<uint32_t> scalars(args.size());
  std::vector<void*> pointers(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    if (const Scalar* scalar = std::get_if<Scalar>(&args[i])) {
      scalars[i] = scalar->bits;
      pointers[i] = &scalars[i];
    } else if (const Slice& slice = std::get<Slice>(args[i]); slice.buffer) {
      pointers[i] = slice.buffer->contents() + slice.offset;
    }
  }
  const uint32_t seed = options_.seed ? static_cast<uint32_t>(random_()) : 0;
  const Running now{&info, args};
  const RunningScope scope(now);
  executor_.run(
      {info, dispatch.pipeline->constants(), pointers, dispatch.grid, dispatch.threadgroup, seed});
  check_canaries(info, args);
}

}  // namespace moeflux::device::host
