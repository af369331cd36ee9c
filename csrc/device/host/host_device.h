// The host device with options of one's own, for tests of the device itself; everybody else calls
// open_host().
#pragma once
#include <memory>

#include "device/device.h"
#include "device/host/options.h"

namespace moeflux::device::host {

std::unique_ptr<Device> open(const Options& options);

}  // namespace moeflux::device::host
