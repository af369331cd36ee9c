#include "device/metal/options.h"
#include "device/shader_source.h"

namespace moeflux::device {

std::unique_ptr<Device> open_metal() {
  return metal::open({.source = shader_source(), .kernels = kernel_table()});
}

}  // namespace moeflux::device
