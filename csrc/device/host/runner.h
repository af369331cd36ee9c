// Runner: runs what a Commands recorded, on the calling thread, and checks each dispatch again as
// it runs. One thread's.
#pragma once
#include <random>

#include "device/host/executor.h"
#include "device/host/options.h"
#include "device/recording.h"

namespace moeflux::device::host {

class Runner {
 public:
  Runner(const Limits& limits, const Options& options);
  // Throws GpuError: a check failed, a shader went out of bounds or diverged. What comes after the
  // failure does not run.
  void run(const Recording& recording);

 private:
  void dispatch(std::span<const Argument> args, const Recording::Dispatch& dispatch);

  const Limits limits_;
  const Options options_;
  std::mt19937 random_;  // of schedules, orders and delays
  Executor executor_;
};

// What runs on this thread, for fault reports; null: nothing.
struct Running {
  const KernelInfo* info;
  std::span<const Argument> arguments;
};
const Running* running_dispatch();

}  // namespace moeflux::device::host
