#include "shaders.h"

#include "control.h"
#include "device/host/executor.h"

namespace metal_standin {
namespace {

using moeflux::device::KernelInfo;
namespace host = moeflux::device::host;

void run_shader(const KernelInfo& info, const Launch& launch) {
  thread_local host::Executor executor;
  std::array<void*, kMaxBindings> arguments;
  for (size_t i = 0; i < kMaxBindings; i++) arguments[i] = launch.bound[i].data;
  executor.run({.info = info,
                .constants = launch.constants,
                .arguments = {arguments.data(), info.bindings.size()},
                .grid = launch.grid,
                .threadgroup = launch.threadgroup,
                .seed = uint32_t(random_below(UINT32_MAX)) + 1});
}

}  // namespace

std::vector<Kernel> shader_kernels() {
  std::vector<Kernel> kernels;
  for (const KernelInfo& info : moeflux::device::kernel_table()) {
    kernels.push_back({&info, [&info](const Launch& launch) { run_shader(info, launch); }});
  }
  return kernels;
}

}  // namespace metal_standin
