// The command queue of a device, and a new one in its place after a failure: macOS may ignore all
// further work of a queue that has failed. Thread-safe. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include "base/mutex.h"
#include "device/metal/residency.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

class Queue {
 public:
  // Throws GpuError when the device makes no queue.
  Queue(Retained<id<MTLDevice>> device, Residency& residency);

  // For one command buffer, which ended() follows, whatever becomes of it. Metal orders the command
  // buffers of one queue: so a new one takes over only when none of the old one is under way. After
  // a failure this waits for that, some seconds at most. Throws GpuError when it cannot be made.
  Retained<id<MTLCommandQueue>> take();
  void ended(bool failed);

 private:
  Retained<id<MTLCommandQueue>> make();

  const Retained<id<MTLDevice>> device_;
  Residency& residency_;
  base::Mutex mutex_;
  base::Condition none_under_way_;
  Retained<id<MTLCommandQueue>> queue_ GUARDED_BY(mutex_);
  bool failed_ GUARDED_BY(mutex_) = false;
  int under_way_ GUARDED_BY(mutex_) = 0;
};

}  // namespace moeflux::device::metal
