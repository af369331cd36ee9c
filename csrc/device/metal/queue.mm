#include "device/metal/queue.h"

#include "base/error.h"

namespace moeflux::device::metal {

Queue::Queue(Retained<id<MTLDevice>> device, Residency& residency)
    : device_(std::move(device)), residency_(residency), queue_(make()) {}

Retained<id<MTLCommandQueue>> Queue::make() {
  auto queue = Retained<id<MTLCommandQueue>>::adopt([device_.get() newCommandQueue]);
  if (!queue) throw GpuError("[device::Metal] the device makes no command queue");
  residency_.attach(queue.get());
  return queue;
}

Retained<id<MTLCommandQueue>> Queue::take() {
  const base::Lock lock(mutex_);
  if (failed_ && under_way_ == 0) {
    queue_ = make();
    failed_ = false;
  }
  ++under_way_;
  return queue_;
}

void Queue::ended(bool failed) {
  const base::Lock lock(mutex_);
  --under_way_;
  failed_ = failed_ || failed;
}

}  // namespace moeflux::device::metal
