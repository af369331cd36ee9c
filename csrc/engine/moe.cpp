// The streaming loop of one MoE layer.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/expert_job.h"

namespace moeflux::engine {

namespace {

struct Demand {  // one expert, and what it computes
  uint32_t expert = 0;
  std::vector<uint32_t> pairs;  // row * top_k + rank
  store::Use use = store::Use::sweep;
};

// The experts that a layer's rows want: those in memory first, so that a miss cannot push out what
// the layer is about to use; else by ascending id.
std::vector<Demand> demands_of(const model::Moe& moe, const Pass& pass, uint32_t top_k,
                               const uint32_t* experts, const store::ExpertStore& store) {
  std::vector<Demand> all(moe.router.n_experts);
  uint32_t pair = 0;
  for (const Share& share : pass.shares)
    for (const uint32_t end = pair + share.n * top_k; pair < end; ++pair) {
      if (experts[pair] >= all.size())
        throw Error("[engine::Engine] the router chose expert ", experts[pair], " of ", all.size(),
                    ": the device has gone wrong");
      all[experts[pair]].pairs.push_back(pair);
      if (share.n == 1) all[experts[pair]].use = store::Use::decode;  // a token that comes alone
    }
  for (uint32_t expert = 0; expert < all.size(); ++expert) all[expert].expert = expert;
  std::erase_if(all, [](const Demand& demand) { return demand.pairs.empty(); });
  std::stable_partition(all.begin(), all.end(), [&](const Demand& demand) {
    return store.contains(moe.store_layer, demand.expert);
  });
  return all;
}

}  // namespace

// Runs the experts of routed rows as they become ready, the shared expert while reads are under
// way. Every (row, rank) pair has an output row of its own and `combine` adds them by ascending
// expert, so arrival order changes nothing.
//
// Two things are handed over early: hits and shared expert when a read must be waited for, and,
// when there are fewer slots than experts, half of the slots at a time, so that the next experts
// are read into the other half. Everything else goes with the next layer's router: in decode two
// submits a layer at most.
void Engine::moe(const model::Moe& moe, const Pass& pass, const model::Moe* guessed) {
  const uint32_t n = pass.n_rows(), d = weights_->spec.d_model, k = pass.router_of(moe).top_k;
  const ops::Routing routing = act_.routing();
  const float* normed = act_.normed.as<float>();
  float* shared = moe.has_shared ? act_.shared.as<float>() : nullptr;

  const std::vector<Demand> demands = demands_of(moe, pass, k, routing.experts, *store_);
  auto next = demands.begin();  // not acquired yet
  struct Pending {
    const Demand* demand;
    store::ExpertStore::Pin pin;
  };
  std::vector<Pending> pending;  // acquired, not enqueued
  const auto acquire = [&] {
    for (; next != demands.end(); ++next) {
      auto pin = store_->try_acquire(moe.store_layer, next->expert, next->use);
      if (!pin) return;
      pending.push_back({&*next, std::move(*pin)});
    }
  };
  const auto enqueue_ready = [&](size_t limit) {
    std::vector<ops::ExpertJob> jobs;
    std::vector<Pending> rest;
    for (Pending& p : pending) {
      if (jobs.size() == limit || !p.pin.ready()) {
        rest.push_back(std::move(p));
        continue;
      }
      jobs.push_back(job_of(moe.experts, p.pin.data()));
      jobs.back().pairs = p.demand->pairs;
      for (uint32_t pair : p.demand->pairs) jobs.back().rows.push_back(pair / k);
      pipeline_.hold(std::move(p.pin));
    }
    pending = std::move(rest);
    if (!jobs.empty()) pipeline_.enqueue().experts(jobs, normed, act_.expert_out.as<float>());
    return !jobs.empty();
  };

  judge_guesses(moe, {routing.experts, uint64_t(n) * k});
  std::vector<store::ExpertStore::Pin> guesses = std::exchange(guesses_, {});  // of this layer
  size_t window = 1;  // experts that there are slots for at once
  bool shared_done = shared == nullptr, handed_over = false;
  const auto run_shared = [&] {
    if (!shared_done) pipeline_.enqueue().ffn(moe.shared, normed, n, shared);
    shared_done = true;
  };
  for (;;) {
    pipeline_.reap();
    acquire();
    if (!guesses.empty()) {  // what came true is pinned by a demand now, the rest takes slots
      guesses.clear();
      acquire();
    }
    if (guessed != nullptr && next == demands.end()) {
      read_guesses(pass, *guessed);
      guessed = nullptr;
    }
    if (pending.empty() && next == demands.end()) break;
    const bool short_of_slots = next != demands.end();
    window = std::max(window, pending.size());
    if (enqueue_ready(short_of_slots ? (window + 1) / 2 : pending.size())) {
      if (short_of_slots) pipeline_.submit();
      continue;
    }
    if (!shared_done) {
      run_shared();
      continue;
    }
    // Prefill has work for the device in every expert; decode saves it the second submit.
    if (pipeline_.dirty() && (!handed_over || !pass.is_decode())) {
      pipeline_.submit();
      handed_over = true;
    }
    pipeline_.wait();
  }
  run_shared();
  const bool gated = shared != nullptr && moe.shared_gate.weight.out != 0;
  pipeline_.enqueue().combine(routing, k, act_.expert_out.as<float>(),
                              gated ? &moe.shared_gate : nullptr, normed, shared, n, d,
                              act_.x.as<float>());
}

}  // namespace moeflux::engine
