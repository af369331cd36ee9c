#include "base/thread_pool.h"

#include <algorithm>

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
constexpr uint64_t ends_of(uint32_t begin, uint32_t end) {
  return uint64_t(end) << 32 | begin;
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

ThreadPool::ThreadPool(int n_threads)
    : n_threads_(n_threads < 1 ? 1 : n_threads), stretches_(n_threads_) {
  start(
      threads_, static_cast<uint32_t>(n_threads_ - 1), "a compute thread",
      [this](uint32_t index) { work(static_cast<int>(index) + 1); }, [this] { stop(); });
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

uint32_t ThreadPool::run_length(uint32_t begin, uint32_t end) const {
  return std::clamp((end - begin) / 4, 1u, most_);
}

// The owner takes from the front, a thief half of what is left from the back; an empty stretch
// changes by its owner's hand alone.
bool ThreadPool::take(int worker, uint32_t& begin, uint32_t& end) {
  std::atomic<uint64_t>& own = stretches_[worker].ends;
  uint64_t ends = own.load(std::memory_order_relaxed);
  while (uint32_t(ends) < ends >> 32) {
    begin = uint32_t(ends);
    end = begin + run_length(begin, uint32_t(ends >> 32));
    if (own.compare_exchange_weak(ends, ends_of(end, uint32_t(ends >> 32)),
                                  std::memory_order_relaxed))
      return true;
  }
  for (int i = 1; i < n_threads_; ++i) {
    std::atomic<uint64_t>& other = stretches_[(worker + i) % n_threads_].ends;
    ends = other.load(std::memory_order_relaxed);
    while (uint32_t(ends) < ends >> 32) {
      const uint32_t first = uint32_t(ends), last = uint32_t(ends >> 32);
      begin = first + (last - first) / 2;
      if (!other.compare_exchange_weak(ends, ends_of(first, begin), std::memory_order_relaxed))
        continue;
      end = begin + run_length(begin, last);
      own.store(ends_of(end, last), std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void ThreadPool::run_tasks(int worker) {
  try {
    uint32_t begin, end;
    while (!cancel_.load(std::memory_order_relaxed) && take(worker, begin, end)) {
      task_.call(task_.self, static_cast<int>(begin), static_cast<int>(end), worker);
      if (worker == 0) poll_now();
    }
  } catch (...) {
    cancel_ = true;
    Lock lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(int n_tasks, uint32_t most, const Task& task) {
  if (n_tasks <= 0 || idle_) return;
  task_ = task;
  most_ = most;
  for (int worker = 0; worker < n_threads_; ++worker)
    stretches_[worker].ends.store(
        ends_of(static_cast<uint32_t>(int64_t(n_tasks) * worker / n_threads_),
                static_cast<uint32_t>(int64_t(n_tasks) * (worker + 1) / n_threads_)),
        std::memory_order_relaxed);
  cancel_.store(false, std::memory_order_relaxed);
  const bool shared = n_tasks > 1 && n_threads_ > 1;
  if (shared) {
    ++jobs_;
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
  std::exception_ptr error;
  {
    Lock lock(error_mutex_);
    std::swap(error, error_);
  }
  if (error) std::rethrow_exception(error);
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
