// Bell: one thread sleeps until something may have happened; any thread rings. A ring that comes
// while nobody sleeps is kept, so the sleeper may look first and sleep then without missing it.
#pragma once
#include <chrono>
#include <cstdint>

#include "base/mutex.h"

namespace moeflux::base {

class Bell {
 public:
  void ring() {
    // Rung under the lock: the sleeper may destroy the bell as soon as it has heard it.
    Lock lock(mutex_);
    ++rings_;
    rung_.notify_one();
  }
  // Returns when the bell has rung since the last call, or after `timeout`. One thread.
  void wait(std::chrono::nanoseconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    Lock lock(mutex_);
    while (rings_ == heard_ && rung_.wait_until(mutex_, end)) {
    }
    heard_ = rings_;
  }

 private:
  Mutex mutex_;
  Condition rung_;
  uint64_t rings_ GUARDED_BY(mutex_) = 0, heard_ GUARDED_BY(mutex_) = 0;
};

}  // namespace moeflux::base
