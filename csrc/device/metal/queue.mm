#include "device/metal/queue.h"

#include <chrono>

#include "base/error.h"

namespace moeflux::device::metal {
namespace {
// For work under way, which ends by itself; longer than a full queue of it takes.
constexpr std::chrono::seconds kPatience{5};
}  // namespace

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
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (failed_ && under_way_ > 0 && none_under_way_.wait_until(mutex_, end)) {
  }
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
  if (under_way_ == 0) none_under_way_.notify_all();
}

}  // namespace moeflux::device::metal
