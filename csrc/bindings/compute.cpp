#include "bindings/compute.h"

#include <utility>

#include "base/error.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/gpu_ops.h"

namespace moeflux::bindings {

namespace {

quant::DType cache_of(const std::string& kv) {
  if (kv == "float32" || kv.empty()) return quant::DType::f32;
  if (kv == "bfloat16") return quant::DType::bf16;
  throw FormatError("[bindings::Compute] expected kv float32 or bfloat16, found ", kv);
}

Compute on_device(base::Account& account, const ComputeOptions& options) {
  if (options.precision != ops::Precision::float32)
    throw FormatError("[bindings::Compute] expected precision float32 on device ",
                      options.device->kind(), ", found another: bfloat16 and int8 are the CPU's");
  auto arena = std::make_shared<ops::gpu::DeviceArena>(options.device, account);
  auto ops = ops::gpu::make_gpu_ops(*arena, cache_of(options.kv));
  return {std::move(arena), std::move(ops)};
}

}  // namespace

std::string kv_of(const ComputeOptions& options) {
  if (!options.kv.empty()) return options.kv;
  return options.precision == ops::Precision::float32 ? "float32" : "bfloat16";
}

Compute open_compute(base::Account& account, const ComputeOptions& options) {
  if (options.device) return on_device(account, options);
  const bool f32 = options.precision == ops::Precision::float32;
  if (!options.kv.empty() && (cache_of(options.kv) == quant::DType::f32) != f32)
    throw FormatError("[bindings::Compute] expected kv ", f32 ? "float32" : "bfloat16",
                      " on the CPU at precision ", name_of(options.precision), ", found ",
                      options.kv, ": another is a device's");
  Compute compute;
  compute.arena = std::make_shared<base::HeapArena>(account);
  compute.ops = std::make_unique<ops::cpu::CpuOps>(*compute.arena,
                                                   ops::cpu::select_kernels(options.simd.c_str()),
                                                   options.n_threads, options.precision);
  return compute;
}

}  // namespace moeflux::bindings
