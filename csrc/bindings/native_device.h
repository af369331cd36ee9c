// What Python holds of a device.
#pragma once
#include "bindings/owned.h"
#include "device/device.h"

namespace moeflux::bindings {

struct NativeDevice {
  Owned<device::Device, GpuError> device;
};

// For a model to compute on; None: null, the CPU's own ops.
inline std::shared_ptr<device::Device> device_of(const NativeDevice* native) {
  return native ? native->device.share() : nullptr;
}

}  // namespace moeflux::bindings
