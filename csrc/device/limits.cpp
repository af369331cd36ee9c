#include "device/limits.h"

#include "base/error.h"

namespace moeflux::device {

void check_buffer(const Limits& limits, uint64_t nbytes) {
  if (nbytes == 0) throw FormatError("[device::Buffer] expected at least one byte, found 0");
  if (nbytes > limits.max_buffer_bytes)
    throw GpuError("[device::Buffer] too large: expected at most ", limits.max_buffer_bytes,
                   " bytes, found ", nbytes);
}

void check_wrap(const Limits& limits, const std::byte* data, uint64_t nbytes) {
  const uint64_t page = limits.page_bytes;
  const uint64_t past_page = reinterpret_cast<uintptr_t>(data) % page;
  if (!data || past_page != 0 || nbytes % page != 0)
    throw FormatError("[device::Buffer] memory to wrap: expected whole pages of ", page,
                      " bytes, found ", nbytes, " bytes at offset ", past_page, " of a page");
  check_buffer(limits, nbytes);
}

}  // namespace moeflux::device
