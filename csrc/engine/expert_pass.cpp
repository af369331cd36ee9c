#include "engine/expert_pass.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moeflux::engine {

ExpertPass::ExpertPass(const Tools& tools, LookAhead& look_ahead, const model::Moe& moe,
                       const Pass& pass, const ops::Rows& normed, std::span<const uint32_t> chosen)
    : tools_(tools),
      look_ahead_(look_ahead),
      moe_(moe),
      is_decode_(pass.is_decode()),
      top_k_(pass.router_of(moe).top_k),
      normed_(normed),
      demands_(moe.router.n_experts),
      shared_left_(moe.has_shared) {
  find_demands(pass, chosen);
}

void ExpertPass::find_demands(const Pass& pass, std::span<const uint32_t> chosen) {
  uint32_t pair = 0;
  for (const Share& share : pass.shares)
    for (const uint32_t end = pair + share.n * top_k_; pair < end; ++pair) {
      const uint32_t expert = chosen[pair];
      if (expert >= demands_.size())
        throw Error("[engine::Engine] the router chose expert ", expert, " of ", demands_.size(),
                    ": the device has gone wrong");
      if (demands_[expert].pairs.empty()) demands_[expert].request = share.request;
      demands_[expert].pairs.push_back(pair);
      if (share.n == 1) demands_[expert].use = store::Use::decode;  // a token that comes alone
    }
  for (uint32_t expert = 0; expert < demands_.size(); ++expert) demands_[expert].expert = expert;
  std::erase_if(demands_, [](const Demand& demand) { return demand.pairs.empty(); });
  // Those in memory first, so that a miss cannot push out what the layer is about to use.
  std::stable_partition(demands_.begin(), demands_.end(), [&](const Demand& demand) {
    return tools_.store.contains(moe_.store_layer, demand.expert);
  });
  look_ahead_.judge(moe_.store_layer, chosen);
}

void ExpertPass::run() {
  for (acquire(); !pending_.empty() || !all_acquired(); acquire())
    if (!enqueue_ready() && !enqueue_shared()) wait();
  enqueue_shared();
  combine(tools_, moe_, top_k_, normed_);
}

void ExpertPass::acquire() {
  tools_.pipeline.reap();
  take_slots();
  if (look_ahead_.release()) take_slots();
  if (all_acquired()) look_ahead_.read();
  window_ = std::max(window_, pending_.size());
}

void ExpertPass::take_slots() {
  for (; !all_acquired(); ++next_) {
    const Demand& demand = demands_[next_];
    auto pin = tools_.store.try_acquire(moe_.store_layer, demand.expert, demand.use);
    if (!pin) return;
    pending_.push_back({&demand, std::move(*pin)});
  }
}

bool ExpertPass::enqueue_ready() {
  const size_t most = all_acquired() ? pending_.size() : (window_ + 1) / 2;
  std::vector<ops::ExpertJob> jobs;
  std::vector<Pending> rest;
  for (Pending& p : pending_) {
    const auto ready = [&] { return p.pin.ready(); };
    if (jobs.size() == most || !blaming(p.demand->request, ready)) {
      rest.push_back(std::move(p));
      continue;
    }
    jobs.push_back({moe_.experts.at(p.pin.data(), p.demand->expert), {}, p.demand->pairs});
    for (uint32_t pair : p.demand->pairs) jobs.back().rows.push_back(pair / top_k_);
    tools_.pipeline.hold(std::move(p.pin));
  }
  pending_ = std::move(rest);
  if (jobs.empty()) return false;
  tools_.pipeline.enqueue().experts(jobs, normed_, tools_.act.expert_out.as<float>());
  if (!all_acquired()) tools_.pipeline.submit();
  return true;
}

bool ExpertPass::enqueue_shared() {
  if (!shared_left_) return false;
  tools_.pipeline.enqueue().ffn(moe_.shared, normed_, tools_.act.shared.as<float>());
  shared_left_ = false;
  return true;
}

// Prefill has work for the device in every expert; decode saves it the second submit.
void ExpertPass::wait() {
  if (tools_.pipeline.dirty() && (!handed_over_ || !is_decode_)) {
    tools_.pipeline.submit();
    handed_over_ = true;
  }
  tools_.pipeline.wait();
}

void combine(const Tools& tools, const model::Moe& moe, uint32_t top_k, const ops::Rows& normed) {
  const bool gated = moe.has_shared && moe.shared_gate.out() != 0;
  tools.pipeline.enqueue().combine(tools.act.routing(), top_k, tools.act.expert_out.as<float>(),
                                   gated ? &moe.shared_gate : nullptr, normed,
                                   moe.has_shared ? tools.act.shared.as<float>() : nullptr,
                                   tools.weights.spec.d_model, tools.act.x.as<float>());
}

}  // namespace moeflux::engine
