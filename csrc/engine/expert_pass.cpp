#include "engine/expert_pass.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moeflux::engine {

namespace {
// The engine gives no other rows the id behind those of the slices of `normed`.
ops::Rows input_of(const Tools& tools, const model::Moe& moe, const Pass& pass,
                   const ops::Rows& normed) {
  if (!moe.has_latent()) return normed;
  return {tools.act.latent.as<float>(), normed.n, normed.id + pass.slices.size() + 1};
}
}  // namespace

ExpertPass::ExpertPass(const Tools& tools, LookAhead& look_ahead, const model::Moe& moe,
                       const Pass& pass, const ops::Rows& normed, std::span<const uint32_t> chosen)
    : tools_(tools),
      look_ahead_(look_ahead),
      moe_(moe),
      pass_(pass),
      is_decode_(pass.is_decode()),
      top_k_(pass.router_of(moe).top_k),
      normed_(normed),
      input_(input_of(tools, moe, pass, normed)),
      demands_(moe.router.n_experts),
      shared_left_(moe.has_shared && !moe.sandwich.any()) {
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
  combine(tools_, moe_, pass_, normed_);
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
  std::vector<Pending> taken, rest;
  for (Pending& p : pending_) {
    const auto ready = [&] { return p.pin.ready(); };
    auto& list = taken.size() < most && blaming(p.demand->request, ready) ? taken : rest;
    list.push_back(std::move(p));
  }
  pending_ = std::move(rest);
  if (taken.empty()) return false;
  enqueue(taken);
  if (!all_acquired()) tools_.pipeline.submit();
  return true;
}

void ExpertPass::enqueue(std::vector<Pending>& taken) {
  const uint64_t dim = moe_.width(tools_.weights.spec.d_model);
  const bool whole = pass_.slices.size() == 1 || tools_.pipeline.enqueue().takes_passes();
  for (size_t i = 0; i < (whole ? 1 : pass_.slices.size()); ++i) {
    if (i > 0) tools_.pipeline.submit();  // lists of one slice are what a submit takes
    const Slice all{{}, 0, normed_.n}, &slice = whole ? all : pass_.slices[i];
    const std::vector<ops::ExpertJob> jobs = jobs_of(taken, slice);
    if (jobs.empty()) continue;
    tools_.pipeline.enqueue().experts(
        jobs, whole ? input_ : pass_.slice_of(input_, dim, i),
        tools_.act.expert_out.as<float>() + uint64_t(slice.row) * top_k_ * dim);
  }
  for (Pending& p : taken) tools_.pipeline.hold(std::move(p.pin));
  if (!whole) tools_.pipeline.submit();
}

// Of a slice's rows, counted from its first; of a chunk's at most each.
std::vector<ops::ExpertJob> ExpertPass::jobs_of(std::span<const Pending> taken,
                                                const Slice& slice) const {
  std::vector<ops::ExpertJob> jobs;
  const uint32_t first = slice.row * top_k_, chunk = tools_.weights.spec.chunk;
  for (const Pending& p : taken) {
    uint32_t n = chunk;  // of the last job; none yet
    const auto& pairs = p.demand->pairs;
    for (auto pair = std::lower_bound(pairs.begin(), pairs.end(), first);
         pair != pairs.end() && *pair < first + slice.n * top_k_; ++pair, ++n) {
      if (n == chunk) {
        jobs.push_back({moe_.experts.at(p.pin.data(), p.demand->expert), {}, {}, p.demand->expert});
        n = 0;
      }
      jobs.back().pairs.push_back(*pair - first);
      jobs.back().rows.push_back((*pair - first) / top_k_);
    }
  }
  return jobs;
}

bool ExpertPass::enqueue_shared() {
  if (!shared_left_) return false;
  const uint64_t dim = tools_.weights.spec.d_model;
  for (size_t i = 0; i < pass_.slices.size(); ++i)
    tools_.pipeline.enqueue().ffn(moe_.shared, pass_.slice_of(normed_, dim, i),
                                  tools_.act.shared.as<float>() + pass_.slices[i].row * dim);
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

void combine(const Tools& tools, const model::Moe& moe, const Pass& pass, const ops::Rows& normed) {
  const bool gated = moe.has_shared && moe.shared_gate.out() != 0;
  const Activations& act = tools.act;
  const uint32_t dim = tools.weights.spec.d_model, top_k = pass.router_of(moe).top_k;
  for (size_t i = 0; i < pass.slices.size(); ++i) {
    const uint64_t row = pass.slices[i].row;
    if (moe.sandwich.any()) {
      tools.pipeline.enqueue().combine_normed(act.routing(row, top_k, moe.router.n_experts), top_k,
                                              act.expert_out.as<float>() + row * top_k * dim,
                                              moe.sandwich, act.shared.as<float>() + row * dim,
                                              pass.slices[i].n, dim, act.x.as<float>() + row * dim);
      continue;
    }
    if (moe.has_latent()) {
      tools.pipeline.enqueue().combine_latent(
          act.routing(row, top_k, moe.router.n_experts), top_k,
          act.expert_out.as<float>() + row * top_k * moe.latent_in.out(), moe.latent_out,
          moe.has_shared ? act.shared.as<float>() + row * dim : nullptr, pass.slices[i].n,
          act.x.as<float>() + row * dim);
      continue;
    }
    tools.pipeline.enqueue().combine(act.routing(row, top_k, moe.router.n_experts), top_k,
                                     act.expert_out.as<float>() + row * top_k * dim,
                                     gated ? &moe.shared_gate : nullptr,
                                     pass.slice_of(normed, dim, i),
                                     moe.has_shared ? act.shared.as<float>() + row * dim : nullptr,
                                     dim, act.x.as<float>() + row * dim);
  }
}

}  // namespace moeflux::engine
