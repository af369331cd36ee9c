// Mutex, Lock, Condition: std's, with annotations that clang checks in every build (CMakeLists.txt):
// what is GUARDED_BY a mutex is only touched with it held, and what REQUIRES it is only called so.
// Other compilers see no annotations.
#pragma once
#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define MOEFLUX_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define MOEFLUX_THREAD_SAFETY(attribute)
#endif
#define GUARDED_BY(mutex) MOEFLUX_THREAD_SAFETY(guarded_by(mutex))
#define REQUIRES(...) MOEFLUX_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define ACQUIRE(...) MOEFLUX_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RELEASE(...) MOEFLUX_THREAD_SAFETY(release_capability(__VA_ARGS__))

namespace moeflux::base {

class MOEFLUX_THREAD_SAFETY(capability("mutex")) Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

class MOEFLUX_THREAD_SAFETY(scoped_lockable) Lock {
 public:
  explicit Lock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Lock() RELEASE() { mutex_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits may end early: ask again in a loop.
class Condition {
 public:
  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False when that time has come.
  bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point end) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    const std::cv_status status = condition_.wait_until(lock, end);
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace moeflux::base
