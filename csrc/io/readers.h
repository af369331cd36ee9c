// Readers: threads that each take a task from their owner's queue, do it, and take the next. Every
// one has a staging buffer; all of it is booked.
#pragma once
#include <functional>

#include "base/memory.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "io/file.h"

namespace moeflux::io {

inline constexpr uint32_t kReadThreads = 8;  // of a store, and of a load

template <class Task>
class Readers {
 public:
  // take: called with `mutex` held; false when there is nothing to do. run: called without it, with
  // a buffer of kBounceBytes; must not throw. REQUIRES: both work until the destructor returns.
  // Throws MemoryBudgetError.
  Readers(base::Arena& arena, uint32_t n_threads, base::Mutex& mutex,
          std::function<bool(Task&)> take, std::function<void(const Task&, std::byte*)> run)
      : mutex_(mutex),
        take_(std::move(take)),
        run_(std::move(run)),
        bounce_(arena, n_threads * kBounceBytes, "read buffers"),
        stacks_(arena.account(), n_threads * base::kStackBytes, "reader stacks") {
    base::start(
        threads_, n_threads, "a reader",
        [this](uint32_t index) { work(bounce_.mapped() + index * kBounceBytes); },
        [this] { stop(); });
  }
  ~Readers() { stop(); }
  // What they book for as long as they live.
  static uint64_t bytes(const base::Arena& arena, uint32_t n_threads) {
    return arena.booked_bytes(n_threads * kBounceBytes) + n_threads * base::kStackBytes;
  }
  void wake() { work_.notify_one(); }  // for each new task
  void stop() {                        // returns when the tasks that have begun are done
    {
      base::Lock lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    threads_.clear();
  }

 private:
  void work(std::byte* bounce) {
    for (;;) {
      Task task;
      {
        base::Lock lock(mutex_);
        while (!stop_ && !take_(task)) work_.wait(mutex_);
        if (stop_) return;
      }
      run_(task, bounce);
    }
  }

  base::Mutex& mutex_;
  const std::function<bool(Task&)> take_;
  const std::function<void(const Task&, std::byte*)> run_;
  base::Memory bounce_;
  base::Booking stacks_;
  base::Condition work_;
  bool stop_ GUARDED_BY(mutex_) = false;
  base::Threads threads_;
};

}  // namespace moeflux::io
