#include "engine/look_ahead.h"

#include <algorithm>
#include <set>
#include <utility>

namespace moeflux::engine {

namespace {
// Reads on guesses may take one in kShare of the slots of their size (benchmarks/notebook.md).
constexpr uint32_t kShare = 4;
}  // namespace

LookAhead::LookAhead(const Tools& tools, bool enabled)
    : tools_(tools), enabled_(enabled), trust_(tools.weights.layers.size()) {}

bool LookAhead::helps(const Pass& pass) const {
  if (!enabled_ || tools_.store.holds_all() || pass.top_k != 0) return false;
  return std::none_of(pass.shares.begin(), pass.shares.end(), [&](const Share& share) {
    return pass.requests[share.request].routing != nullptr;  // the router does not choose there
  });
}

void LookAhead::guess(const Pass& pass, size_t index) {
  const auto& layers = tools_.weights.layers;
  const auto next = std::find_if(layers.begin() + index + 1, layers.end(),
                                 [](const model::Layer& layer) { return layer.moe() != nullptr; });
  if (next == layers.end() || !helps(pass)) return;
  next_ = next->moe();
  n_rows_ = pass.n_rows();
  float* normed = tools_.act.expert_out.as<float>();  // not in use before this layer's experts
  const model::Spec& spec = tools_.weights.spec;
  const ops::Router& router = next_->router;
  for (const Slice& slice : pass.slices) {
    const float* x = tools_.act.x.as<float>() + uint64_t(slice.row) * spec.d_model;
    const float* weight = next_->sandwich.any() ? next_->sandwich.router : next->ffn_norm;
    tools_.pipeline.enqueue().norm(weight, spec.eps, x, slice.n, spec.d_model, normed);
    tools_.pipeline.enqueue().route(router, {normed, slice.n},
                                    tools_.act.guess(slice.row, router.top_k, router.n_experts));
  }
}

void LookAhead::judge(uint32_t store_layer, std::span<const uint32_t> chosen) {
  const auto right = std::count_if(missing_.begin(), missing_.end(), [&](uint32_t expert) {
    return std::find(chosen.begin(), chosen.end(), expert) != chosen.end();
  });
  trust_.see(store_layer, static_cast<uint32_t>(right), static_cast<uint32_t>(missing_.size()));
  missing_.clear();
  due_ = std::exchange(pins_, {});
}

bool LookAhead::release() {
  const bool any = !due_.empty();
  due_.clear();
  return any;
}

void LookAhead::read() {
  if (next_ == nullptr) return;
  const model::Moe& moe = *std::exchange(next_, nullptr);
  const std::vector<uint32_t> ids = tools_.act.guessed(uint64_t(n_rows_) * moe.router.top_k);
  const std::set<uint32_t> experts(ids.begin(), ids.end());
  if (*experts.rbegin() >= moe.router.n_experts)
    return;  // the device has gone wrong: the layer's own routing will say so
  store::ExpertStore& store = tools_.store;
  const bool trusted = trust_.holds(moe.store_layer);
  if (trusted)
    for (const uint32_t expert : experts)  // a read of one must not push out another
      if (auto pin = store.keep(moe.store_layer, expert)) pins_.push_back(std::move(*pin));
  size_t left = trusted ? store.n_slots(moe.store_layer) / kShare : 0;
  for (const uint32_t expert : experts) {
    if (store.contains(moe.store_layer, expert)) continue;
    missing_.push_back(expert);
    if (left == 0) continue;
    if (auto pin = store.read_ahead(moe.store_layer, expert)) {
      pins_.push_back(std::move(*pin));
      --left;
    }
  }
}

void LookAhead::abandon() {
  next_ = nullptr;
  missing_.clear();
  pins_.clear();
  due_.clear();
}

}  // namespace moeflux::engine
