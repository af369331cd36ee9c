#include "base/thread_pool.h"

#include "base/clock.h"

namespace moeflux::base {

namespace {
constexpr int64_t kPollNs = 50'000'000;  // Ctrl-C is seen well within a second
// Between two stages of a decoded token the caller computes alone for some microseconds; a sleeping
// thread takes some 50 to wake up.
constexpr int64_t kSpinNs = 50'000;
constexpr uint32_t kOpen = 1u << 31;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // as long as x86's pause; `yield` is a no-op on most cores
#endif
}
// Spins, then sleeps, until `value` is no longer `old`.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  const int64_t give_up = now_ns() + kSpinNs;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (now_ns() < give_up);
  value.wait(old, std::memory_order_acquire);
}
}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads < 1 ? 1 : n_threads) {
  try {
    for (int worker = 1; worker < n_threads_; ++worker)
      threads_.push_back(std::make_unique<Thread>([this, worker] { work(worker); }));
  } catch (...) {  // those that have started wait for a job
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stop_ = true;
  epoch_.fetch_add(1);
  epoch_.notify_all();
}

void ThreadPool::poll_now() {
  if (!poll_) return;
  const int64_t now = now_ns();
  if (now - last_poll_ns_ < kPollNs) return;
  last_poll_ns_ = now;
  poll_();
}

void ThreadPool::run_tasks(int worker) {
  try {
    while (!cancel_.load(std::memory_order_relaxed)) {
      const int task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= n_tasks_) return;
      task_.call(task_.self, task, worker);
      if (worker == 0) poll_now();
    }
  } catch (...) {
    cancel_ = true;
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(int n_tasks, const Task& task) {
  if (n_tasks <= 0) return;
  task_ = task;
  n_tasks_ = n_tasks;
  next_.store(0, std::memory_order_relaxed);
  cancel_.store(false, std::memory_order_relaxed);
  const bool shared = n_tasks > 1 && n_threads_ > 1;
  if (shared) {
    inside_.store(kOpen, std::memory_order_release);
    epoch_.fetch_add(1);
    epoch_.notify_all();
  }
  run_tasks(0);
  if (shared) {
    uint32_t inside = inside_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    while (inside != 0) {
      wait_while(inside_, inside);
      inside = inside_.load(std::memory_order_acquire);
    }
  }
  if (!error_) return;
  std::exception_ptr error;
  {
    std::lock_guard lock(error_mutex_);
    std::swap(error, error_);
  }
  std::rethrow_exception(error);
}

// The acquire pairs with the caller's release: the job is whole when a worker sees it open.
bool ThreadPool::join() {
  uint32_t inside = inside_.load(std::memory_order_acquire);
  while (inside & kOpen)
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void ThreadPool::leave() {
  if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) inside_.notify_all();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    wait_while(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    if (!join()) continue;
    run_tasks(worker);
    leave();
  }
}

}  // namespace moeflux::base
