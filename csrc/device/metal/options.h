// How a Metal device is opened, for callers that bring shaders or limits of their own (tests,
// doctor). No Objective-C here.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "device/device.h"
#include "device/kernel_table.h"

namespace moeflux::device::metal {

struct Options {
  std::string_view source;              // Metal source; must outlive the device
  std::span<const KernelInfo> kernels;  // binding tables of its functions; must outlive the device
  // Smaller limits than the device's own, so that tests can reach them.
  uint64_t max_buffer_bytes = UINT64_MAX;
  uint64_t working_set_bytes = UINT64_MAX;
};

// Compiles nothing yet. Throws NoDeviceError that says why, GpuError.
std::unique_ptr<Device> open(const Options& options);

}  // namespace moeflux::device::metal
