// Thread: a joining thread with a small stack, so that stacks fit the memory budget.
#pragma once
#include <pthread.h>

#include <cstdint>
#include <functional>

namespace moeflux::base {

inline constexpr uint64_t kStackBytes =
    256 * 1024;  // compute and reader threads keep buffers elsewhere

class Thread {
 public:
  explicit Thread(std::function<void()> body);  // throws Error when the system refuses
  ~Thread();                                    // joins
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

 private:
  std::function<void()> body_;
  pthread_t handle_;
};

}  // namespace moeflux::base
