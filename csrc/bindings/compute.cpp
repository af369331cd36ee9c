#include "bindings/compute.h"

#include "ops/cpu/cpu_ops.h"

namespace moeflux::bindings {

Compute open_compute(base::Account& account, const ComputeOptions& options) {
  Compute compute;
  compute.arena = std::make_shared<base::HeapArena>(account);
  compute.ops = std::make_unique<ops::cpu::CpuOps>(*compute.arena,
                                                   ops::cpu::select_kernels(options.simd.c_str()),
                                                   options.n_threads, options.precision);
  return compute;
}

}  // namespace moeflux::bindings
