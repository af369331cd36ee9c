// The streaming loop of one MoE layer.
#include <algorithm>

#include "base/error.h"
#include "engine/engine.h"

namespace moeflux::engine {

namespace {

ops::ExpertJob job_of(const model::ExpertShapes& shapes, const std::byte* slot) {
  ops::ExpertJob job;
  ops::Linear* linears[] = {&job.ffn.gate, &job.ffn.up, &job.ffn.down};
  const quant::Shape* of[] = {&shapes.gate, &shapes.up, &shapes.down};
  for (int i = 0; i < 3; ++i) {
    static_cast<quant::Shape&>(linears[i]->weight) = *of[i];
    linears[i]->weight.weight = slot + shapes.offsets[3 * i];
    linears[i]->weight.scales = slot + shapes.offsets[3 * i + 1];
    linears[i]->weight.biases = slot + shapes.offsets[3 * i + 2];
  }
  return job;
}

}  // namespace

// Runs the experts of n routed rows as they become ready: hits first, so that a miss cannot push
// out what this layer is about to use; the shared expert while reads are under way. Every (row,
// rank) pair has an output row of its own and `combine` adds them by ascending expert, so arrival
// order changes nothing.
//
// Two things are handed over early: hits and shared expert when a read must be waited for, and,
// when there are fewer slots than experts, half of the slots at a time, so that the next experts
// are read into the other half. Everything else goes with the next layer's router: in decode two
// submits a layer at most.
void Engine::moe(const model::Moe& moe, const Pass& pass) {
  const uint32_t n = pass.n_rows(), d = weights_->spec.d_model, k = pass.router_of(moe).top_k;
  const ops::Routing routing = act_.routing();
  const float* normed = act_.normed.as<float>();
  float* shared = act_.shared.as<float>();
  float* expert_out = act_.expert_out.as<float>();

  struct Wanted {
    std::vector<uint32_t> pairs;
    bool decode = false;  // a token that comes alone wants it
  };
  std::vector<Wanted> by_expert(moe.router.n_experts);
  uint32_t pair = 0;
  for (const Share& share : pass.shares)
    for (const uint32_t end = pair + share.n * k; pair < end; ++pair) {
      if (routing.experts[pair] >= by_expert.size())
        throw Error("[engine::Engine] the router chose expert " +
                    std::to_string(routing.experts[pair]) + " of " +
                    std::to_string(by_expert.size()) + ": the device has gone wrong");
      Wanted& wanted = by_expert[routing.experts[pair]];
      wanted.pairs.push_back(pair);
      wanted.decode = wanted.decode || share.n == 1;
    }
  std::vector<uint32_t> wanted;
  for (uint32_t expert = 0; expert < by_expert.size(); ++expert)
    if (!by_expert[expert].pairs.empty()) wanted.push_back(expert);
  std::stable_partition(wanted.begin(), wanted.end(),
                        [&](uint32_t expert) { return store_->contains(moe.store_layer, expert); });

  struct Pending {
    uint32_t expert;
    store::ExpertStore::Pin pin;
  };
  std::vector<Pending> pending;  // acquired, not enqueued
  size_t next = 0;
  const auto acquire = [&] {
    while (next < wanted.size()) {
      const auto use = by_expert[wanted[next]].decode ? store::Use::decode : store::Use::sweep;
      auto pin = store_->try_acquire(moe.store_layer, wanted[next], use);
      if (!pin) return;
      pending.push_back({wanted[next++], std::move(*pin)});
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
      jobs.back().pairs = by_expert[p.expert].pairs;
      for (uint32_t each : jobs.back().pairs) jobs.back().rows.push_back(each / k);
      pipeline_.hold(std::move(p.pin));
    }
    pending = std::move(rest);
    if (!jobs.empty()) pipeline_.enqueue().experts(jobs, normed, expert_out);
    return !jobs.empty();
  };

  size_t window = 1;  // experts that there are slots for at once
  bool shared_done = !moe.has_shared, handed_over = false;
  const auto run_shared = [&] {
    if (!shared_done) pipeline_.enqueue().ffn(moe.shared, normed, n, shared);
    shared_done = true;
  };
  for (;;) {
    pipeline_.reap();
    acquire();
    if (pending.empty() && next == wanted.size()) break;
    const bool short_of_slots = next < wanted.size();
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
    if (!handed_over || !pass.is_decode()) pipeline_.submit();
    handed_over = true;
    pipeline_.wait();
  }
  run_shared();
  pipeline_.enqueue().combine(
      routing, k, expert_out,
      moe.has_shared && moe.shared_gate.weight.out ? &moe.shared_gate : nullptr, normed,
      moe.has_shared ? shared : nullptr, n, d, act_.x.as<float>());
}

}  // namespace moeflux::engine
