#include "device/host/queue.h"

#include <chrono>
#include <exception>

#include "device/host/runner.h"

namespace moeflux::device::host {

Queue::Queue(const Limits& limits, const Options& options)
    : limits_(limits), options_(options), thread_("the host device", [this] { serve(); }) {}

Queue::~Queue() {
  const base::Lock lock(mutex_);
  closing_ = true;
  changed_.notify_all();
}

void Queue::commit(std::shared_ptr<Batch> batch) {
  const base::Lock lock(mutex_);
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

std::shared_ptr<Batch> Queue::next() {
  const base::Lock lock(mutex_);
  while (!closing_ && batches_.empty()) changed_.wait(mutex_);
  if (batches_.empty()) return nullptr;
  auto batch = std::move(batches_.front());
  batches_.pop_front();
  return batch;
}

void Queue::serve() {
  Runner runner(limits_, options_);
  while (const auto batch = next()) {
    const auto start = std::chrono::steady_clock::now();
    std::string error;
    try {
      runner.run(batch->recording);
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    const std::chrono::nanoseconds elapsed = std::chrono::steady_clock::now() - start;
    batch->recording = {};  // lets go of buffers and pipelines
    batch->completion.finish(std::move(error), static_cast<uint64_t>(elapsed.count()));
  }
}

}  // namespace moeflux::device::host
