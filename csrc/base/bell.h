// Bell: one thread sleeps until something may have happened; any thread rings. A ring that comes
// while nobody sleeps is kept, so the sleeper may look first and sleep then without missing it.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace moeflux::base {

class Bell {
 public:
  void ring() {
    // Rung under the lock: the sleeper may destroy the bell as soon as it has heard it.
    std::lock_guard lock(mutex_);
    ++rings_;
    rung_.notify_one();
  }
  // Returns when the bell has rung since the last call, or after `timeout`. One thread.
  void wait(std::chrono::nanoseconds timeout) {
    std::unique_lock lock(mutex_);
    rung_.wait_for(lock, timeout, [this] { return rings_ != heard_; });
    heard_ = rings_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
  uint64_t rings_ = 0, heard_ = 0;  // guarded by mutex_
};

}  // namespace moeflux::base
