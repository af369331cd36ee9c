// Shared memory of a Metal device. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include <functional>
#include <memory>

#include "device/device.h"
#include "device/metal/context.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

class MetalBuffer final : public Buffer {
 public:
  MetalBuffer(std::shared_ptr<const Context> context, Retained<id<MTLBuffer>> buffer)
      : context_(std::move(context)), buffer_(std::move(buffer)) {
    context_->residency->add(buffer_.get());
  }
  ~MetalBuffer() override;

  std::byte* contents() const override { return static_cast<std::byte*>(buffer_.get().contents); }
  uint64_t nbytes() const override { return buffer_.get().length; }
  uint64_t address() const override { return buffer_.get().gpuAddress; }

  id<MTLBuffer> get() const { return buffer_.get(); }
  bool belongs_to(const Context& context) const { return context_.get() == &context; }

 private:
  const std::shared_ptr<const Context> context_;
  const Retained<id<MTLBuffer>> buffer_;
};

// Zero-filled; see Device::buffer.
std::shared_ptr<MetalBuffer> make_buffer(const std::shared_ptr<const Context>& context,
                                         uint64_t nbytes);
// See Device::wrap. When it throws, on_free is not called.
std::shared_ptr<MetalBuffer> wrap_memory(const std::shared_ptr<const Context>& context,
                                         std::byte* data, uint64_t nbytes,
                                         std::function<void()> on_free);

}  // namespace moeflux::device::metal
