#include "engine/routing.h"

#include <algorithm>

#include "base/error.h"
#include "ops/choose.h"

namespace moeflux::engine {

namespace {

[[noreturn]] void refuse(const auto&... what) {
  throw SessionError("[engine::Routing] ", what...);
}

void check_forced_row(const uint8_t* masked, int32_t* ids, uint32_t top_k, uint32_t n_experts,
                      const std::string& where) {
  std::sort(ids, ids + top_k);
  if (ids[top_k - 1] == -1) return;  // all of them: the router chooses
  if (ids[0] < 0 || ids[top_k - 1] >= static_cast<int32_t>(n_experts))
    refuse("expected experts of 0..", int64_t(n_experts) - 1, " or -1 in all ", top_k,
           " places, found ", ids[0], "..", ids[top_k - 1], where);
  for (uint32_t i = 0; i < top_k; ++i) {
    if (i > 0 && ids[i] == ids[i - 1])
      refuse("expected different experts, found ", ids[i], " twice", where);
    if (masked != nullptr && masked[ids[i]])
      refuse("expert ", ids[i], " is both masked and forced", where);
  }
}

}  // namespace

void check_override(const model::Weights& weights, RoutingOverride& o) {
  const uint64_t n_layers = weights.layers.size(), width = weights.n_experts(),
                 k = o.top_k ? o.top_k : weights.top_k();
  if (width == 0) refuse("the model has no experts to choose");
  if (!o.masked.empty() && o.masked.size() != n_layers * width)
    refuse("expected a mask of (layers, experts) = (", n_layers, ", ", width, ")");
  if (o.forced.size() != o.n_forced * n_layers * k)
    refuse("expected forced experts of (tokens, layers, top_k) = (", o.n_forced, ", ", n_layers,
           ", ", k, ")");
  // Outputs of experts lie in a buffer of chunk * top_k rows; a pass of one row must fit.
  const uint64_t most = uint64_t(weights.spec.chunk) * weights.top_k();
  bool own = true;
  for (uint64_t index = 0; index < n_layers; ++index) {
    const model::Layer& layer = weights.layers[index];
    const std::string where = cat(" (layer ", index, ")");
    const uint8_t* masked = o.masked.empty() ? nullptr : o.masked.data() + index * width;
    const model::Moe* moe = layer.moe();
    const uint32_t n_experts = moe ? moe->router.n_experts : 0;
    if (masked != nullptr &&
        std::any_of(masked + n_experts, masked + width, [](uint8_t m) { return m != 0; }))
      refuse("expected masked experts below ", n_experts, where);
    if (moe) {
      const uint32_t top_k = o.top_k ? o.top_k : moe->router.top_k;
      own = own && top_k == moe->router.top_k;
      const uint64_t open = std::min<uint64_t>(moe->router.most_chosen(), most);
      if (top_k > open) refuse("expected a top_k of 1..", open, ", found ", top_k, where);
      const auto left = masked ? std::count(masked, masked + n_experts, 0) : int64_t(n_experts);
      if (left < int64_t(top_k))
        refuse("the mask leaves ", left, " experts of the ", top_k, " that a token takes", where);
      if (top_k != k && o.n_forced) refuse("expected every layer to take ", k, " experts", where);
    }
    for (uint64_t token = 0; token < o.n_forced; ++token)
      check_forced_row(masked, o.forced.data() + (token * n_layers + index) * k,
                       static_cast<uint32_t>(k), n_experts, where);
  }
  if (own) o.top_k = 0;
}

void apply_override(const RoutingOverride& o, const ops::Router& router, uint64_t index,
                    uint64_t n_layers, uint32_t width, uint64_t token, const float* logits,
                    uint32_t* experts, float* weights) {
  const uint32_t top_k = router.top_k;
  const uint8_t* masked = o.masked.empty() ? nullptr : o.masked.data() + index * width;
  const int32_t* forced = nullptr;
  if (o.repeat) token = 0;
  if (token < o.n_forced) forced = o.forced.data() + (token * n_layers + index) * top_k;
  if (forced != nullptr && forced[0] < 0) forced = nullptr;
  if (masked == nullptr && forced == nullptr) return;

  std::vector<uint32_t> open;  // experts that there are
  for (uint32_t expert = 0; expert < router.n_experts; ++expert)
    if (masked == nullptr || !masked[expert]) open.push_back(expert);
  std::vector<uint32_t> chosen = open;
  if (forced != nullptr) {
    chosen.assign(forced, forced + top_k);
  } else {
    std::vector<float> scores(router.n_experts), ranks(router.n_experts);
    ops::score(router.score, logits, open, scores.data());
    ops::choose(ops::rank(router, logits, scores.data(), open, ranks.data()), top_k, chosen);
    chosen.resize(top_k);
  }
  // Where the router has chosen the same, its weights stand: a replay has the bits of the original.
  const bool alone = router.score == ops::Score::sigmoid;  // a score asks for its own logit
  if ((router.normalise || masked == nullptr || alone) &&
      std::equal(chosen.begin(), chosen.end(), experts, experts + top_k))
    return;
  // Normalised weights are scores among the chosen: the others' probabilities cancel, and would
  // round those of forced experts to nothing.
  std::vector<double> scores(router.n_experts);
  ops::score(router.score, logits, router.normalise ? chosen : open, scores.data());
  std::copy(chosen.begin(), chosen.end(), experts);
  ops::weigh(router, scores.data(), chosen, weights);
}

}  // namespace moeflux::engine
