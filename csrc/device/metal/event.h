// A counter that command buffers raise and await. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include "device/device.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

class MetalEvent final : public Event {
 public:
  explicit MetalEvent(Retained<id<MTLSharedEvent>> event) : event_(std::move(event)) {}
  uint64_t value() const override { return event_.get().signaledValue; }
  id<MTLSharedEvent> get() const { return event_.get(); }

 private:
  Retained<id<MTLSharedEvent>> event_;
};

}  // namespace moeflux::device::metal
