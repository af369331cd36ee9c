#include "device/metal/buffer.h"

#include "base/error.h"
#include "device/limits.h"

namespace moeflux::device::metal {
namespace {

// Tracked: Metal itself orders command buffers that touch the same buffer.
constexpr MTLResourceOptions kShared =
    MTLResourceStorageModeShared | MTLResourceHazardTrackingModeTracked;

}  // namespace

MetalBuffer::~MetalBuffer() {
  const Pool pool;
  context_->residency->remove(buffer_.get());
}

std::shared_ptr<MetalBuffer> make_buffer(const std::shared_ptr<const Context>& context,
                                         uint64_t nbytes) {
  check_buffer(context->limits, nbytes);
  context->residency->settle();  // what was let go is free before more is taken
  // Metal clears what newBufferWithLength returns.
  auto buffer = Retained<id<MTLBuffer>>::adopt([context->device.get() newBufferWithLength:nbytes
                                                                                  options:kShared]);
  if (!buffer)
    throw GpuError("[device::Metal] no memory for a buffer of ", nbytes, " bytes on ",
                   context->name);
  return std::make_shared<MetalBuffer>(context, std::move(buffer));
}

std::shared_ptr<MetalBuffer> wrap_memory(const std::shared_ptr<const Context>& context,
                                         std::byte* data, uint64_t nbytes,
                                         std::function<void()> on_free) {
  check_wrap(context->limits, data, nbytes);
  auto buffer = Retained<id<MTLBuffer>>::adopt([context->device.get()
      newBufferWithBytesNoCopy:data
                        length:nbytes
                       options:kShared
                   deallocator:^(void*, NSUInteger) {
                     if (on_free) on_free();
                   }]);
  if (!buffer)
    throw GpuError("[device::Metal] ", context->name, " cannot use ", nbytes, " bytes in place");
  return std::make_shared<MetalBuffer>(context, std::move(buffer));
}

}  // namespace moeflux::device::metal
