#include "base/thread_pool.h"

#include <chrono>

namespace moeflux::base {

namespace {
constexpr int64_t kPollNs = 50'000'000;  // Ctrl-C is seen well within a second
int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads < 1 ? 1 : n_threads) {
  for (int worker = 1; worker < n_threads_; ++worker)
    threads_.push_back(std::make_unique<Thread>([this, worker] { work(worker); }));
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
}

void ThreadPool::poll_now() {
  const int64_t now = now_ns();
  if (!poll_ || now - last_poll_ns_ < kPollNs) return;
  last_poll_ns_ = now;
  poll_();
}

void ThreadPool::run_tasks(int worker) {
  try {
    while (!cancel_.load(std::memory_order_relaxed)) {
      const int task = next_.fetch_add(1);
      if (task >= n_tasks_) return;
      (*task_)(task, worker);
      if (worker == 0) poll_now();
    }
  } catch (...) {
    cancel_ = true;
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::parallel_for(int n_tasks, const Task& task) {
  if (n_tasks <= 0) return;
  {
    std::lock_guard lock(mutex_);
    task_ = &task;
    n_tasks_ = n_tasks;
    next_ = 0;
    cancel_ = false;
    error_ = nullptr;
    if (n_tasks > 1) {
      ++generation_;
      running_ = n_threads_ - 1;
    }
  }
  if (n_tasks > 1) start_.notify_all();
  run_tasks(0);
  std::unique_lock lock(mutex_);
  finish_.wait(lock, [this] { return running_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
    }
    run_tasks(worker);
    std::lock_guard lock(mutex_);
    if (--running_ == 0) finish_.notify_one();
  }
}

}  // namespace moeflux::base
