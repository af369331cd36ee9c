// Queue: a thread that runs command buffers one after another, in the order of their commits. What
// a batch throws is stored in it and thrown by its wait; the batches behind it still run.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include "base/thread.h"
#include "device/device.h"
#include "device/host/executor.h"

namespace moeflux::device::host {

class HostEvent : public Event {
 public:
  uint64_t value() const override { return value_.load(std::memory_order_acquire); }
  void raise(uint64_t value) { value_.store(value, std::memory_order_release); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

struct Dispatch {
  std::shared_ptr<Pipeline> pipeline;
  std::vector<Argument> arguments;
  Size grid, threadgroup;
};
struct Signal {
  std::shared_ptr<HostEvent> event;
  uint64_t value;
};
struct Await {
  std::shared_ptr<HostEvent> event;
  uint64_t value;
};
using Step = std::variant<Dispatch, Signal, Await>;

// One command buffer. `steps` and `handlers` are the committer's until commit, then the queue's.
class Batch {
 public:
  std::vector<Step> steps;
  std::vector<std::function<void()>> handlers;

  // What the queue's thread does: runs, calls the handlers, lets go of all it holds.
  void run(Executor& executor, const Limits& limits);

  bool done() const;
  // Until done and all handlers have returned. Throws what the run threw.
  bool wait_for(uint64_t timeout_ns);
  uint64_t gpu_ns() const;

 private:
  void run_steps(Executor& executor, const Limits& limits);

  mutable std::mutex mutex_;
  std::condition_variable finished_;
  bool done_ = false;      // guarded by mutex_; the work is over
  bool released_ = false;  // guarded by mutex_; done_, and no handler is running
  std::exception_ptr error_;  // guarded by mutex_
  uint64_t gpu_ns_ = 0;       // guarded by mutex_
};

class Queue {
 public:
  explicit Queue(const Limits& limits);
  ~Queue();  // runs what has been committed first
  void commit(std::shared_ptr<Batch> batch);

 private:
  void serve();

  const Limits limits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Batch>> batches_;  // guarded by mutex_
  bool closing_ = false;                        // guarded by mutex_
  base::Thread thread_;                         // last: serves the members above
};

}  // namespace moeflux::device::host
