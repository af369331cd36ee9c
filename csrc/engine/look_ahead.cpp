// Reading ahead on a guess: the next MoE layer's router, asked of what the residual stream holds
// before this layer's experts. A layer adds little to the stream, so that most of its answers are
// right (benchmarks/notebook.md); a wrong one costs a read and changes no result.
#include <algorithm>
#include <set>

#include "engine/engine.h"

namespace moeflux::engine {

namespace {
// Of the slots, reads on guesses may take one in so many: the layer at work has the others.
constexpr uint32_t kShare = 4;
}  // namespace

// Enqueues the guess and returns the layer that it is of; null when there is none to make.
const model::Moe* Engine::guess_next(const Pass& pass, size_t index) {
  if (!options_.read_ahead || store_->holds_all() || pass.top_k != 0) return nullptr;
  if (std::any_of(pass.shares.begin(), pass.shares.end(), [&](const Share& share) {
        return pass.requests[share.request].routing != nullptr;  // routers have no say there
      }))
    return nullptr;
  const auto& layers = weights_->layers;
  const auto next = std::find_if(layers.begin() + index + 1, layers.end(),
                                 [](const model::Layer& layer) { return layer.is_moe; });
  if (next == layers.end()) return nullptr;
  float* normed = act_.expert_out.as<float>();  // not in use before this layer's experts
  const uint32_t n = pass.n_rows();
  pipeline_.enqueue().norm(next->ffn_norm, weights_->spec.eps, act_.x.as<float>(), n,
                           weights_->spec.d_model, normed);
  pipeline_.enqueue().route(next->moe.router, normed, n, act_.guess());
  return &next->moe;
}

void Engine::read_guesses(const Pass& pass, const model::Moe& next) {
  const uint32_t n = pass.n_rows() * next.router.top_k;
  const std::set<uint32_t> experts(act_.guess().experts, act_.guess().experts + n);
  if (*experts.rbegin() >= next.router.n_experts)
    return;  // the device has gone wrong: moe() says so
  const uint32_t layer = next.store_layer;
  const bool trusted = trust_.holds(layer);
  if (trusted)
    for (const uint32_t expert : experts)  // a read of one must not push out another
      if (auto pin = store_->keep(layer, expert)) guesses_.push_back(std::move(*pin));
  size_t left = trusted ? store_->n_slots() / kShare : 0;
  for (const uint32_t expert : experts) {
    if (store_->contains(layer, expert)) continue;
    guessed_.push_back(expert);
    if (left == 0) continue;
    if (auto pin = store_->read_ahead(layer, expert)) {
      guesses_.push_back(std::move(*pin));
      --left;
    }
  }
}

// `wanted`: the experts that the layer's router chose, a row's after the other.
void Engine::judge_guesses(const model::Moe& moe, std::span<const uint32_t> wanted) {
  const auto right = std::count_if(guessed_.begin(), guessed_.end(), [&](uint32_t expert) {
    return std::find(wanted.begin(), wanted.end(), expert) != wanted.end();
  });
  trust_.see(moe.store_layer, static_cast<uint32_t>(right), static_cast<uint32_t>(guessed_.size()));
  guessed_.clear();
}

}  // namespace moeflux::engine
