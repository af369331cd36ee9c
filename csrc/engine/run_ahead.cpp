#include "engine/run_ahead.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "engine/expert_pass.h"

namespace moeflux::engine {

namespace {
// Layers of which the device is told before the first of them is known to be right. Enough to hide a
// round trip; each costs its mixer once more when it was told in vain, and time until an abort.
constexpr size_t kWindow = 3;
// The device is told what is behind a layer that has hit so often lately. By reckoning: a miss costs
// kWindow mixers, a hit saves a round trip of about as much as one takes.
constexpr float kLeast = 0.8f;
constexpr float kStep = 1.0f / 16;
// Where reads are guessed they hide a part of each miss. So many misses a layer cost more than the
// round trips of those that hit; by reckoning, too.
constexpr float kRare = 0.05f;
constexpr float kMissingStep = 1.0f / 8;

uint64_t note_words(const model::Weights& weights) {
  return weights.top_k() + uint64_t{1};
}

struct Block {
  uint64_t nbytes;
  const char* what;
};

std::array<Block, 4> blocks(const model::Weights& weights) {
  uint64_t n = 0;
  for (const model::Layer& layer : weights.layers) n += layer.moe() != nullptr;
  return {{{weights.spec.d_model * sizeof(float), "a layer to go back to"},
           {n * note_words(weights) * sizeof(uint32_t), "notes of layers"},
           {weights.top_k() * sizeof(uint32_t), "places of experts"},
           {sizeof(uint32_t), "a flag of the device"}}};
}
}  // namespace

bool RunAhead::fits(const model::Weights& weights, const ops::Ahead* ahead) {
  if (ahead == nullptr || weights.top_k() == 0) return false;
  return std::all_of(weights.layers.begin(), weights.layers.end(), [&](const model::Layer& layer) {
    const model::Moe* moe = layer.moe();
    return moe == nullptr ||
           (!moe->has_latent() && ahead->fits(moe->router, moe->experts.at(nullptr, 0)));
  });
}

uint64_t RunAhead::bytes(const model::Weights& weights, const ops::Ahead* ahead,
                         const base::Arena& arena) {
  uint64_t sum = 0;
  if (fits(weights, ahead))
    for (const Block& block : blocks(weights)) sum += arena.booked_bytes(block.nbytes);
  return sum;
}

RunAhead::RunAhead(const Tools& tools, LookAhead& look_ahead, ops::Ahead* ahead, bool enabled,
                   base::Arena& arena)
    : tools_(tools), look_ahead_(look_ahead) {
  if (!fits(tools.weights, ahead)) return;
  const auto all = blocks(tools.weights);
  base::Memory* const members[] = {&saved_, &notes_, &places_, &stopped_};
  for (size_t i = 0; i < all.size(); ++i)
    *members[i] = base::Memory::written(arena, all[i].nbytes, all[i].what);
  if (enabled) ahead_ = ahead;
  for (size_t index = 0; index < tools.weights.layers.size(); ++index)
    if (const model::Moe* moe = tools.weights.layers[index].moe()) layers_.push_back({index, moe});
}

bool RunAhead::helps(const Pass& pass) const {
  if (ahead_ == nullptr || pass.n_rows() != 1 || pass.top_k != 0) return false;
  const Share& share = pass.shares[0];
  const Request& request = pass.requests[share.request];
  const Capture& capture = request.capture;
  // A layer may be computed twice: its state is then read where nothing has written it.
  return share.begin == 0 && request.routing == nullptr && !capture.experts && !capture.router &&
         !capture.hidden && (missing_ < kRare || !look_ahead_.helps(pass)) &&
         !tools_.store.reading();
}

void RunAhead::judge(uint64_t misses) {
  if (layers_.empty()) return;
  const float now = static_cast<float>(misses) / static_cast<float>(layers_.size());
  missing_ += kMissingStep * (now - missing_);
}

// Segment k ends with the lookup of the k-th layer of experts and begins with the experts of the one
// before; the last one ends with the head. A segment is a submit.
class RunAhead::Walk {
 public:
  Walk(RunAhead& all, const Pass& pass, const Stages& stages)
      : all_(all), pass_(pass), stages_(stages), commits_(all.layers_.size() + 1) {}

  void run() {
    all_.stopped_.write<uint32_t>(0, std::array<const uint32_t, 1>{0});
    for (size_t k = 0; k < n_layers(); ++k) {
      tell(k);
      all_.tools_.pipeline.finish(commits_[k]);
      look(k);
    }
    tell(n_layers());
  }

 private:
  size_t n_layers() const { return all_.layers_.size(); }
  ops::Ops& enqueue() { return all_.tools_.pipeline.enqueue(); }
  ops::Ahead& ahead() {
    enqueue();
    return *all_.ahead_;
  }
  uint32_t top_k(size_t k) const { return all_.layers_[k].moe->router.top_k; }
  uint64_t note(size_t k) const { return k * note_words(all_.tools_.weights); }

  // All segments up to k, and those behind it that may be.
  void tell(size_t k) {
    const size_t last = std::min(k + kWindow, n_layers());
    for (; told_ <= k || (told_ <= last && all_.layers_[told_ - 1].hits >= kLeast); ++told_)
      segment(told_);
  }

  void segment(size_t k) {
    if (k > 0 && !known_) experts(k - 1);
    known_ = false;
    const size_t begin = k == 0 ? 0 : all_.layers_[k - 1].index + 1;
    const size_t end =
        k == n_layers() ? all_.tools_.weights.layers.size() : all_.layers_[k].index + 1;
    for (size_t index = begin; index < end; ++index) normed_ = stages_.enter(index);
    if (k == n_layers()) {
      stages_.head();
    } else {
      ahead().find(lookup(k), all_.layers_[k].moe->experts.at(nullptr, 0));
    }
    all_.tools_.pipeline.submit();
    commits_[k] = all_.tools_.pipeline.stats().commits;
  }

  ops::Lookup lookup(size_t k) const {
    const Tools& tools = all_.tools_;
    const model::Moe& moe = *all_.layers_[k].moe;
    ops::Lookup lookup;
    lookup.table = tools.store.table_of(moe.store_layer);
    lookup.chosen = tools.act.routing(0, moe.router.top_k, moe.router.n_experts).experts;
    lookup.x = tools.act.x.as<float>();
    lookup.n_experts = moe.router.n_experts;
    lookup.top_k = moe.router.top_k;
    lookup.dim = tools.weights.spec.d_model;
    lookup.note = all_.notes_.as<uint32_t>() + note(k);
    lookup.saved = all_.saved_.as<float>();
    lookup.places = all_.places_.as<uint32_t>();
    lookup.stopped = all_.stopped_.as<uint32_t>();
    return lookup;
  }

  // Of layer k, whose places are known to the device. As ExpertPass has it.
  void experts(size_t k) {
    const Tools& tools = all_.tools_;
    const model::Moe& moe = *all_.layers_[k].moe;
    ahead().experts(lookup(k), moe.experts.at(nullptr, 0), normed_,
                    tools.act.expert_out.as<float>());
    if (moe.has_shared) enqueue().ffn(moe.shared, normed_, tools.act.shared.as<float>());
    combine(tools, moe, pass_, normed_);
  }

  // What the k-th layer has chosen; its lookup is done.
  void look(size_t k) {
    Place& layer = all_.layers_[k];
    std::vector<uint32_t> chosen = all_.notes_.read<uint32_t>(note(k), top_k(k) + 1);
    const bool hit = chosen.back() != 0;
    chosen.pop_back();
    layer.hits += kStep * (static_cast<float>(hit) - layer.hits);
    if (hit)
      for (const uint32_t expert : chosen)  // a use of it; the pin has served already
        all_.tools_.store.try_acquire(layer.moe->store_layer, expert, store::Use::decode);
    else
      redo(k, chosen);
  }

  void redo(size_t k, std::span<const uint32_t> chosen) {
    const Tools& tools = all_.tools_;
    const model::Moe& moe = *all_.layers_[k].moe;
    const bool alone = told_ == k + 1;  // the device has nothing of what comes behind
    if (alone) {
      all_.stopped_.write<uint32_t>(0, std::array<const uint32_t, 1>{0});
    } else {
      const model::Layer& layer = tools.weights.layers[all_.layers_[k].index];
      const model::Spec& spec = tools.weights.spec;
      float *x = tools.act.x.as<float>(), *normed = tools.act.normed.as<float>();
      tools.pipeline.missed();
      ahead().resume(all_.saved_.as<float>(), spec.d_model, all_.stopped_.as<uint32_t>(), x);
      enqueue().norm(layer.ffn_norm, spec.eps, x, 1, spec.d_model, normed);
      normed_ = {normed, 1};
      enqueue().route(moe.router, normed_,
                      tools.act.routing(0, moe.router.top_k, moe.router.n_experts));
    }
    ExpertPass(tools, all_.look_ahead_, moe, pass_, normed_, chosen).run();
    known_ = true;
    told_ = k + 1;
  }

  RunAhead& all_;
  const Pass& pass_;
  const Stages& stages_;
  std::vector<uint64_t> commits_;  // by segment: how many there were with it
  size_t told_ = 0;                // segments
  bool known_ = false;             // the experts before the next segment are enqueued
  ops::Rows normed_;               // the input of the last layer that was told
};

void RunAhead::run(const Pass& pass, const Stages& stages) {
  Walk(*this, pass, stages).run();
}

}  // namespace moeflux::engine
