// Thread: a joining thread with a small stack, so that stacks fit the memory budget. Threads:
// several.
#pragma once
#include <pthread.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moeflux::base {

inline constexpr uint64_t kStackBytes =
    256 * 1024;  // compute and reader threads keep buffers elsewhere

class Thread {
 public:
  // `what` it is, for the message. Throws Error when the system refuses.
  Thread(const std::string& what, std::function<void()> body);
  ~Thread();  // joins
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

 private:
  std::function<void()> body_;
  pthread_t handle_;
};

using Threads = std::vector<std::unique_ptr<Thread>>;

// Starts n more, the i-th of which calls body(i). After an error `stop` is called, which makes all
// in `threads` end; they are joined, and the error goes on.
template <class Body, class Stop>
void start(Threads& threads, uint32_t n, const std::string& what, const Body& body,
           const Stop& stop) {
  threads.reserve(threads.size() + n);  // so that none is joined before stop()
  try {
    for (uint32_t i = 0; i < n; ++i)
      threads.push_back(std::make_unique<Thread>(what, [body, i] { body(i); }));
  } catch (...) {
    stop();
    threads.clear();
    throw;
  }
}

}  // namespace moeflux::base
