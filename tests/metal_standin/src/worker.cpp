#include "worker.h"

#include <thread>
#include <utility>

#include "metal_standin.h"

namespace metal_standin {
namespace {

struct Pending {  // jobs pushed and not yet through, of all workers
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t count = 0;
};

Pending& pending() {  // never destroyed: threads may outlive main
  static Pending& pending = *new Pending;
  return pending;
}

}  // namespace

void quiesce() {
  std::unique_lock lock(pending().mutex);
  pending().changed.wait(lock, [] { return pending().count == 0; });
}

Worker::Worker() {
  std::thread(loop, state_).detach();
}

Worker::~Worker() {
  const std::lock_guard lock(state_->mutex);
  state_->stopped = true;
  state_->changed.notify_all();
}

void Worker::push(std::function<void()> job) {
  {
    const std::lock_guard lock(pending().mutex);
    pending().count++;
  }
  const std::lock_guard lock(state_->mutex);
  state_->jobs.push_back(std::move(job));
  state_->changed.notify_all();
}

void Worker::loop(const std::shared_ptr<State>& state) {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(state->mutex);
      state->changed.wait(lock, [&] { return state->stopped || !state->jobs.empty(); });
      if (state->jobs.empty()) return;
      job = std::move(state->jobs.front());
      state->jobs.pop_front();
    }
    job();
    job = nullptr;  // what it holds goes before the job counts as through
    const std::lock_guard lock(pending().mutex);
    pending().count--;
    pending().changed.notify_all();
  }
}

}  // namespace metal_standin
