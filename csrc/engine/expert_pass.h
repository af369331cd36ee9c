// ExpertPass: the experts of one MoE layer over the rows of a pass, run as they arrive, the shared
// expert while reads are under way. Every (row, rank) pair has an output row of its own and
// `combine` adds them by ascending expert, so that the order of arrival changes nothing.
//
// Two things are submitted early: hits and shared expert when a read must be waited for, and, when
// there are fewer slots than experts, half of the slots at a time, so that the next experts are
// read into the other half. All else goes with the next layer's router: in decode at most two
// submits a layer.
#pragma once
#include <vector>

#include "engine/look_ahead.h"

namespace moeflux::engine {

// The end of a layer: enqueues x += what its experts, and the shared one, gave.
void combine(const Tools& tools, const model::Moe& moe, const Pass& pass, const ops::Rows& normed);

class ExpertPass {
 public:
  // `chosen` (rows, top_k): experts that the routing in tools.act has, or will have before stages of
  // this read it; `pass` outlives it. Throws Error when it names experts that there are not.
  ExpertPass(const Tools& tools, LookAhead& look_ahead, const model::Moe& moe, const Pass& pass,
             const ops::Rows& normed, std::span<const uint32_t> chosen);
  // Enqueues all of it: x += experts(normed). Throws IoError when an expert cannot be read.
  void run();

 private:
  struct Demand {  // one expert, and what it computes
    uint32_t expert = 0;
    uint32_t request = 0;         // the first that needs it
    std::vector<uint32_t> pairs;  // row * top_k + rank
    store::Use use = store::Use::sweep;
  };
  struct Pending {  // has a slot, is not enqueued
    const Demand* demand;
    store::ExpertStore::Pin pin;
  };

  void find_demands(const Pass& pass, std::span<const uint32_t> chosen);
  bool all_acquired() const { return next_ == demands_.size(); }
  void acquire();
  void take_slots();
  bool enqueue_ready();  // false: nothing is ready
  void enqueue(std::vector<Pending>& taken);
  std::vector<ops::ExpertJob> jobs_of(std::span<const Pending> taken, const Slice& slice) const;
  bool enqueue_shared();  // false: there is none, or it is enqueued
  void wait();

  const Tools tools_;
  LookAhead& look_ahead_;
  const model::Moe& moe_;
  const Pass& pass_;
  const bool is_decode_;
  const uint32_t top_k_;
  const ops::Rows normed_;
  const ops::Rows input_;  // what experts read: `normed`, or what is made of it
  std::vector<Demand> demands_;
  size_t next_ = 0;  // the first demand without a slot
  std::vector<Pending> pending_;
  size_t window_ = 1;  // experts that had slots at once, at most
  bool shared_left_;
  bool handed_over_ = false;  // before a wait
};

}  // namespace moeflux::engine
