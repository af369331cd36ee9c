#include "bindings/compute.h"

#include <utility>

#include "base/error.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/gpu_ops.h"

namespace moeflux::bindings {

namespace {

Compute on_device(base::Account& account, const ComputeOptions& options) {
  if (options.precision != ops::Precision::float32)
    throw FormatError("[bindings::Compute] expected precision float32 on device ",
                      options.device->kind(), ", found another: bfloat16 and int8 are the CPU's");
  auto arena = std::make_shared<ops::gpu::DeviceArena>(options.device, account);
  auto ops = ops::gpu::make_gpu_ops(*arena);
  return {std::move(arena), std::move(ops)};
}

}  // namespace

Compute open_compute(base::Account& account, const ComputeOptions& options) {
  if (options.device) return on_device(account, options);
  Compute compute;
  compute.arena = std::make_shared<base::HeapArena>(account);
  compute.ops = std::make_unique<ops::cpu::CpuOps>(*compute.arena,
                                                   ops::cpu::select_kernels(options.simd.c_str()),
                                                   options.n_threads, options.precision);
  return compute;
}

}  // namespace moeflux::bindings
