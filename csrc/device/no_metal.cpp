// Stands for metal/ in builds for other systems.
#include "base/error.h"
#include "device/device.h"

namespace moeflux::device {

std::unique_ptr<Device> open_metal() {
  throw NoDeviceError(
      "[device::open_metal] no Metal device: this build of moeflux is not for macOS");
}

}  // namespace moeflux::device
