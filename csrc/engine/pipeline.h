// Pipeline: what the engine has asked of its ops and what is not done yet. Owns the pins of slots
// that queued stages read, until the ticket of those stages is done. The engine's only blocking
// call is here. Knows no layer. One thread.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/bell.h"
#include "ops/ops.h"
#include "store/expert_store.h"

namespace moeflux::engine {

struct PipelineStats {
  uint64_t commits = 0;  // submits
  // Times that the device had nothing more to compute until the engine had seen what a ticket gave.
  uint64_t waits = 0;
  uint64_t read_wait_ns = 0;  // asleep for reads, with nothing to compute meanwhile
};

class Pipeline {
 public:
  // The bell must be rung by finished reads as well; submitted tickets ring it.
  Pipeline(ops::Ops& ops, std::shared_ptr<base::Bell> bell) : ops_(ops), bell_(std::move(bell)) {}
  ~Pipeline() { drain(); }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Called by wait(), at most every 50 ms; what it throws (an interrupt) leaves wait().
  void set_poll(std::function<void()> poll) { poll_ = std::move(poll); }

  ops::Ops& enqueue() {  // for one or more stages
    dirty_ = true;
    return ops_;
  }
  // Keeps a slot until all that is enqueued by the next submit() is done.
  void hold(store::ExpertStore::Pin pin) { held_.push_back(std::move(pin)); }
  // Whether something is enqueued that has not been submitted.
  bool dirty() const { return dirty_; }
  void submit();  // nothing, when nothing is enqueued
  // Releases the pins of finished tickets. Throws what a ticket has stored.
  void reap();
  // The blocking call: returns when a ticket or a read may have finished, or soon after.
  void wait();
  void finish();  // submits, and returns when all is done
  // The same of what the first `commits` submits handed over, while the device goes on with the rest.
  void finish(uint64_t commits);
  void missed() { ++stats_.waits; }  // what the device goes on with is of no use
  void drain() noexcept;  // after an error: nothing enqueued or under way is left, no pin is held
  const PipelineStats& stats() const { return stats_; }

 private:
  struct Flight {
    std::unique_ptr<ops::Ticket> ticket;
    std::vector<store::ExpertStore::Pin> pins;
  };

  ops::Ops& ops_;
  std::shared_ptr<base::Bell> bell_;  // shared: a ticket may ring after its engine has gone
  std::function<void()> poll_;
  int64_t last_poll_ns_ = 0;
  bool dirty_ = false;
  std::vector<store::ExpertStore::Pin> held_;  // of stages enqueued since the last submit
  std::deque<Flight> flights_;                 // submitted, in order
  PipelineStats stats_;
};

}  // namespace moeflux::engine
