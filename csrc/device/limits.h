// What a device's limits allow, whichever device that is.
#pragma once
#include <cstddef>
#include <cstdint>

#include "device/device.h"

namespace moeflux::device {

// Throws FormatError for 0 bytes, GpuError for more than limits.max_buffer_bytes.
void check_buffer(const Limits& limits, uint64_t nbytes);
// Throws FormatError when the memory is not whole pages, and as check_buffer does.
void check_wrap(const Limits& limits, const std::byte* data, uint64_t nbytes);

}  // namespace moeflux::device
