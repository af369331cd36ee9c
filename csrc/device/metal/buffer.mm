#include "device/metal/buffer.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace moeflux::device::metal {
namespace {

// Tracked: Metal itself orders command buffers that touch the same buffer.
constexpr MTLResourceOptions kShared =
    MTLResourceStorageModeShared | MTLResourceHazardTrackingModeTracked;

void check_size(const Limits& limits, uint64_t nbytes) {
  if (nbytes > limits.max_buffer_bytes) {
    throw GpuError("[device::Metal] a buffer is too large: expected at most " +
                   std::to_string(limits.max_buffer_bytes) + " bytes, found " +
                   std::to_string(nbytes));
  }
}

}  // namespace

std::shared_ptr<MetalBuffer> make_buffer(const std::shared_ptr<const Context>& context,
                                         uint64_t nbytes) {
  check_size(context->limits, nbytes);
  // Metal clears what newBufferWithLength returns, and makes no buffer of 0 bytes.
  auto buffer = Retained<id<MTLBuffer>>::adopt(
      [context->device.get() newBufferWithLength:std::max<uint64_t>(nbytes, 1) options:kShared]);
  if (!buffer) {
    throw GpuError("[device::Metal] no memory for a buffer of " + std::to_string(nbytes) +
                   " bytes on " + context->name);
  }
  return std::make_shared<MetalBuffer>(context, std::move(buffer), nbytes);
}

std::shared_ptr<MetalBuffer> wrap_memory(const std::shared_ptr<const Context>& context,
                                         std::byte* data, uint64_t nbytes,
                                         std::function<void()> on_free) {
  const uint64_t page = context->limits.page_bytes;
  const auto address = reinterpret_cast<uint64_t>(data);
  if (!data || nbytes == 0 || address % page != 0 || nbytes % page != 0) {
    throw FormatError("[device::Metal] memory cannot be used in place: expected address and size "
                      "that are multiples of " +
                      std::to_string(page) + ", found address modulo page " +
                      std::to_string(address % page) + " and " + std::to_string(nbytes) + " bytes");
  }
  check_size(context->limits, nbytes);
  auto buffer = Retained<id<MTLBuffer>>::adopt([context->device.get()
      newBufferWithBytesNoCopy:data
                        length:nbytes
                       options:kShared
                   deallocator:^(void*, NSUInteger) {
                     if (on_free) on_free();
                   }]);
  if (!buffer) {
    throw GpuError("[device::Metal] " + context->name + " cannot use " + std::to_string(nbytes) +
                   " bytes in place");
  }
  return std::make_shared<MetalBuffer>(context, std::move(buffer), nbytes);
}

}  // namespace moeflux::device::metal
