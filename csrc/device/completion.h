// Completion: how a committed command buffer ends, seen from both sides: the device finishes it
// once, whoever holds the Commands waits for it. Shared by both, so that either may go first.
// Thread-safe.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/mutex.h"

namespace moeflux::device {

class Completion {
 public:
  // Before finish() only.
  void on_completed(std::function<void()> handler);
  // The same for whoever wakes a waiter: called last of all, when a wait returns at once.
  void on_settled(std::function<void()> handler);

  // By the device, once. `error` empty: it ran to its end. Order: done() turns true, the handlers
  // run on this thread, then waiters wake, so that after a wait every handler has returned. What a
  // handler throws becomes the error, if there is none yet. Then those of on_settled() run, for
  // which nobody waits; what they throw is lost.
  void finish(std::string error, uint64_t gpu_ns);

  bool done() const;
  // True once finished and all handlers have returned. Throws GpuError with the stored error, each
  // time. Not from a handler of the same command buffer.
  bool wait_for(uint64_t timeout_ns) const;
  uint64_t gpu_ns() const;  // 0 before done()

 private:
  void run_handlers();

  mutable base::Mutex mutex_;
  mutable base::Condition handled_changed_;
  // done_ and gpu_ns_ are set before the handlers run, handled_ after; with it error_ is final.
  bool done_ GUARDED_BY(mutex_) = false;
  bool handled_ GUARDED_BY(mutex_) = false;
  uint64_t gpu_ns_ GUARDED_BY(mutex_) = 0;
  std::string error_ GUARDED_BY(mutex_);
  std::vector<std::function<void()>> handlers_ GUARDED_BY(mutex_), settled_ GUARDED_BY(mutex_);
};

}  // namespace moeflux::device
