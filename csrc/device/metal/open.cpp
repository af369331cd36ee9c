#include "device/library_source.h"
#include "device/metal/options.h"

namespace moeflux::device {

std::unique_ptr<Device> open_metal() {
  return metal::open({.source = library_source(), .kernels = kernel_table()});
}

}  // namespace moeflux::device
