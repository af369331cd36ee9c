// ThreadPool: runs the tasks of one parallel_for at a time on n threads, the caller among them.
// What a task computes must not depend on which worker runs it: results are then bit-equal for
// every thread count. One thread may call parallel_for at a time.
//
// Each worker begins with a stretch of consecutive tasks of its own, and one that has none left
// takes the second half of another's: tasks that follow each other read memory that does, and a
// core whose stream goes on reads half as fast again as one that starts anew every 64 KB
// (benchmarks/notebook.md).
//
// Workers spin for a moment after a job, since the next follows within microseconds while a model
// computes, then sleep, so that none burns a core while the caller waits for a disk. The caller
// waits for the workers that joined a job, not for one that is still waking up.
#pragma once
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"

namespace moeflux::base {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  struct Idle {};
  // Of a dry run: runs no task, and needs no threads for that.
  ThreadPool(int n_threads, Idle) : n_threads_(n_threads), idle_(true) {}
  ~ThreadPool();

  // Calls f(task, worker) for every task in [0, n_tasks), worker in [0, size()); returns when all
  // are done. Between the caller's tasks, at most every 50 ms, `poll` is called; what it throws (an
  // interrupt) stops the remaining tasks and is rethrown.
  template <class F>
  void parallel_for(int n_tasks, const F& f) {
    run(n_tasks, 1, {&f, [](const void* self, int begin, int, int worker) {
                       (*static_cast<const F*>(self))(begin, worker);
                     }});
  }
  // The same with f(begin, end, worker) for runs of tasks, each a quarter of what its worker has
  // left, kMostTasks at most: for tasks so small that going from one to the next costs.
  static constexpr uint32_t kMostTasks = 16;
  template <class F>
  void parallel_ranges(int n_tasks, const F& f) {
    run(n_tasks, kMostTasks, {&f, [](const void* self, int begin, int end, int worker) {
                                (*static_cast<const F*>(self))(begin, end, worker);
                              }});
  }
  void set_poll(std::function<void()> poll) { poll_ = std::move(poll); }
  void poll_now();  // calls `poll` when 50 ms have passed since the last call
  int size() const { return n_threads_; }
  bool idle() const { return idle_; }
  uint64_t jobs() const { return jobs_; }  // that it has handed to its threads

 private:
  struct Task {
    const void* self;
    void (*call)(const void* self, int begin, int end, int worker);
  };
  void run(int n_tasks, uint32_t most, const Task& task);
  void run_tasks(int worker);
  // The next tasks of its own, or of another.
  bool take(int worker, uint32_t& begin, uint32_t& end);
  uint32_t run_length(uint32_t begin, uint32_t end) const;  // tasks to take of so many
  void work(int worker);
  void stop();
  bool join();
  void leave();

  const int n_threads_;
  const bool idle_ = false;
  std::function<void()> poll_;
  int64_t last_poll_ns_ = 0;
  uint64_t jobs_ = 0;

  // The job. Written by the caller while it is closed and no worker is in it.
  Task task_{};
  uint32_t most_ = 1;               // tasks that are taken at once
  struct alignas(64) Stretch {      // of tasks that are left to a worker; a cache line each
    std::atomic<uint64_t> ends{0};  // begin in the low half, end in the high one
  };
  std::vector<Stretch> stretches_;
  std::atomic<bool> cancel_{false};
  Mutex error_mutex_;
  std::exception_ptr error_ GUARDED_BY(error_mutex_);  // the first that a task threw

  std::atomic<uint32_t> epoch_{0};   // one more for each job; workers sleep on it
  std::atomic<uint32_t> inside_{0};  // workers in the job; kOpen: more may join
  std::atomic<bool> stop_{false};
  Threads threads_;  // last: joined first
};

}  // namespace moeflux::base
