// What devices without a compiler and without a recorder answer.
#include "base/error.h"
#include "device/device.h"

namespace moeflux::device {

std::shared_ptr<OwnLibrary> Device::compile(std::string_view) {
  throw GpuError("[device::compile] expected a device with a compiler for shaders: metal; found ",
                 kind(), ", which has the kernels that moeflux was built with");
}

void Device::begin_capture(const std::string&) {
  throw GpuError("[device::capture] expected a device whose work can be recorded: metal; found ",
                 kind());
}

}  // namespace moeflux::device
