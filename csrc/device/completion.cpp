#include "device/completion.h"

#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"

namespace moeflux::device {

void Completion::on_completed(std::function<void()> handler) {
  const base::Lock lock(mutex_);
  handlers_.push_back(std::move(handler));
}

void Completion::on_settled(std::function<void()> handler) {
  const base::Lock lock(mutex_);
  settled_.push_back(std::move(handler));
}

void Completion::finish(std::string error, uint64_t gpu_ns) {
  {
    const base::Lock lock(mutex_);
    error_ = std::move(error);
    gpu_ns_ = gpu_ns;
    done_ = true;
  }
  run_handlers();
  std::vector<std::function<void()>> settled;
  {
    const base::Lock lock(mutex_);
    handled_ = true;
    settled.swap(settled_);
    handled_changed_.notify_all();
  }
  // Nothing of this object is touched below: a waiter may have let it go.
  for (const auto& handler : settled) {
    try {
      handler();
    } catch (...) {
      continue;  // nobody is left to tell
    }
  }
}

void Completion::run_handlers() {
  std::vector<std::function<void()>> handlers;
  {
    const base::Lock lock(mutex_);
    handlers.swap(handlers_);
  }
  for (const auto& handler : handlers) {
    std::string failure;
    try {
      handler();
    } catch (const std::exception& thrown) {
      failure = thrown.what();
    } catch (...) {
      failure = "unknown exception";
    }
    const base::Lock lock(mutex_);
    if (!failure.empty() && error_.empty()) {
      error_ = "[device::Completion] a completed handler failed: " + failure;
    }
  }
}

bool Completion::done() const {
  const base::Lock lock(mutex_);
  return done_;
}

bool Completion::wait_for(uint64_t timeout_ns) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(timeout_ns);
  const base::Lock lock(mutex_);
  while (!handled_ && handled_changed_.wait_until(mutex_, end)) {
  }
  if (handled_ && !error_.empty()) throw GpuError(error_);
  return handled_;
}

uint64_t Completion::gpu_ns() const {
  const base::Lock lock(mutex_);
  return gpu_ns_;
}

}  // namespace moeflux::device
