// Stands in for csrc/bindings/compute.cpp in the test module `queued_core`: the CPU's ops behind a
// queue, with random delays and every operand looked up in the arena.
#include "base/error.h"
#include "bindings/compute.h"
#include "ops/cpu/cpu_ops.h"
#include "queued_ops.h"
#include "tracking_arena.h"

namespace moeflux::bindings {

Compute open_compute(base::Account& account, const ComputeOptions& options) {
  if (options.device) throw moeflux::NoDeviceError("[test] this module has the CPU's ops only");
  const auto arena = std::make_shared<TrackingArena>(account, base::kPageBytes);
  QueuedOps::Options queue;
  queue.max_delay_us = 20;
  queue.check_memory = [&arena = *arena](const void* data, uint64_t nbytes) {
    if (arena.find(data, nbytes).block == nullptr)
      throw std::logic_error("an operand lies outside the arena");
  };
  Compute compute;
  compute.arena = arena;
  compute.ops = std::make_unique<QueuedOps>(
      std::make_unique<ops::cpu::CpuOps>(*arena, ops::cpu::select_kernels(options.simd.c_str()),
                                         options.n_threads, options.precision,
                                         cache_of(kv_of(options))),
      queue);
  return compute;
}

}  // namespace moeflux::bindings
