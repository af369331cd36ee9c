#include "bindings/compute.h"

#include <utility>

#include "base/error.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/gpu_ops.h"

namespace moeflux::bindings {

namespace {

quant::DType device_cache_of(const std::string& kv) {
  const ops::CacheType type = cache_of(kv);
  if (type == ops::CacheType::int8)
    throw FormatError("[bindings::Compute] expected kv float32 or bfloat16 on a device, found ", kv,
                      ": it is the CPU's");
  return type == ops::CacheType::f32 ? quant::DType::f32 : quant::DType::bf16;
}

Compute on_device(base::Account& account, const ComputeOptions& options) {
  if (options.precision != ops::Precision::float32)
    throw FormatError("[bindings::Compute] expected precision float32 on device ",
                      options.device->kind(), ", found another: bfloat16 and int8 are the CPU's");
  auto arena = std::make_shared<ops::gpu::DeviceArena>(options.device, account);
  auto ops = ops::gpu::make_gpu_ops(*arena, device_cache_of(kv_of(options)));
  return {std::move(arena), std::move(ops)};
}

}  // namespace

Compute open_compute(base::Account& account, const ComputeOptions& options) {
  if (options.device) return on_device(account, options);
  Compute compute;
  compute.arena = std::make_shared<base::HeapArena>(account);
  compute.ops = std::make_unique<ops::cpu::CpuOps>(
      *compute.arena, ops::cpu::select_kernels(options.simd.c_str()), options.n_threads,
      options.precision, cache_of(kv_of(options)));
  return compute;
}

}  // namespace moeflux::bindings
