#include "device/host/options.h"

namespace moeflux::device::host {

Options options_of_this_build() {
  return {};
}

}  // namespace moeflux::device::host
