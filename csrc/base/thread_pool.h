// ThreadPool: runs the tasks of one parallel_for at a time on n threads, the caller among them.
// What a task computes must not depend on which worker runs it: results are then bit-equal for
// every thread count. One thread may call parallel_for at a time.
#pragma once
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/thread.h"

namespace moeflux::base {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();

  using Task = std::function<void(int task, int worker)>;
  // Returns when all tasks are done. Between the caller's tasks, at most every 50 ms, `poll` is
  // called; what it throws (an interrupt) stops the remaining tasks and is rethrown.
  void parallel_for(int n_tasks, const Task& task);
  void set_poll(std::function<void()> poll) { poll_ = std::move(poll); }
  void poll_now();  // calls `poll` when 50 ms have passed since the last call
  int size() const { return n_threads_; }

 private:
  void work(int worker);
  void run_tasks(int worker);

  const int n_threads_;
  std::function<void()> poll_;
  int64_t last_poll_ns_ = 0;

  std::mutex mutex_;
  std::condition_variable start_, finish_;
  uint64_t generation_ = 0;   // guarded by mutex_: one more for each parallel_for
  int running_ = 0;           // guarded by mutex_: workers still inside the current one
  bool stop_ = false;         // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_: the first that a task threw

  const Task* task_ = nullptr;
  int n_tasks_ = 0;
  std::atomic<int> next_{0};
  std::atomic<bool> cancel_{false};
  std::vector<std::unique_ptr<Thread>> threads_;  // last: joined first
};

}  // namespace moeflux::base
