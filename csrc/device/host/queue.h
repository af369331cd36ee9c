// Queue: a thread that runs command buffers one after another, in the order of their commits. A
// failure ends its command buffer; those behind it still run.
#pragma once
#include <deque>
#include <memory>

#include "base/mutex.h"
#include "base/thread.h"
#include "device/completion.h"
#include "device/host/options.h"
#include "device/recording.h"

namespace moeflux::device::host {

struct Batch {          // one command buffer
  Recording recording;  // the committer's until commit, then the queue's
  Completion completion;
};

class Queue {
 public:
  Queue(const Limits& limits, const Options& options);
  ~Queue();  // runs what has been committed first
  void commit(std::shared_ptr<Batch> batch);

 private:
  void serve();
  std::shared_ptr<Batch> next();  // waits; null: closing, and nothing is left

  const Limits limits_;
  const Options options_;
  base::Mutex mutex_;
  base::Condition changed_;
  std::deque<std::shared_ptr<Batch>> batches_ GUARDED_BY(mutex_);
  bool closing_ GUARDED_BY(mutex_) = false;
  base::Thread thread_;  // last: serves the members above
};

}  // namespace moeflux::device::host
