// How a Metal device is opened, for callers that bring shaders of their own (tests). No Objective-C
// here.
#pragma once
#include <memory>
#include <span>
#include <string_view>

#include "device/device.h"
#include "device/kernel_table.h"

namespace moeflux::device::metal {

struct Options {
  std::string_view source;              // Metal source; must outlive the device
  std::span<const KernelInfo> kernels;  // binding tables of its functions; must outlive the device
};

// Compiles nothing yet. Throws NoDeviceError that says why, GpuError.
std::unique_ptr<Device> open(const Options& options);

}  // namespace moeflux::device::metal
