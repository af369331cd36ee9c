// What every object of one Metal device shares. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include <memory>
#include <string>

#include "device/device.h"
#include "device/metal/queue.h"
#include "device/metal/residency.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

struct Context {  // unchanged once the device is open, so that any thread may read it
  Retained<id<MTLDevice>> device;
  std::unique_ptr<Residency> residency;
  std::unique_ptr<Queue> queue;
  // Stands at bindings that a call leaves out: Metal's API validation stops a process whose kernel
  // has an argument with no buffer, also when it never reads it.
  Retained<id<MTLBuffer>> unbound;
  std::string name;
  Limits limits;
};

}  // namespace moeflux::device::metal
