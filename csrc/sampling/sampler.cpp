#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace moeflux::sampling {

namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

void check_id(const char* what, uint32_t id, uint32_t size) {
  if (id >= size)
    throw SessionError("[sampling] ", what, ": expected ids below ", size, ", found ", id);
}

// What a program checked before; here so that no number leads past what is kept.
void check(bool holds, const char* expected, double found) {
  if (!holds) throw SessionError("[sampling] expected ", expected, ", found ", found);
}

void forbid(Values& values, std::span<const uint32_t> mask) {
  for (uint32_t word = 0; word < mask.size(); ++word) {
    static_assert(kBlock % 32 == 0);  // values are padded to whole words
    for (uint32_t out = ~mask[word], token = word * 32; out != 0; ++token, out >>= 1)
      if (out & 1) values[token] = kForbidden;
  }
}

}  // namespace

Sampler::Sampler(SampleSpec spec, std::span<const uint32_t> seen) : spec_(std::move(spec)) {
  const Filters& f = spec_.filters;
  check(f.temperature > 0 && std::isfinite(f.temperature), "a finite temperature from 0",
        f.temperature);
  check(f.top_p > 0 && f.top_p <= 1, "a top_p above 0 and up to 1", f.top_p);
  check(f.min_p >= 0 && f.min_p <= 1, "a min_p of 0..1", f.min_p);
  for (const uint32_t id : seen) seen_.push_back({id, 0});
  std::sort(seen_.begin(), seen_.end());
  const auto same = [](const Seen& a, const Seen& b) { return a.id == b.id; };
  seen_.erase(std::unique(seen_.begin(), seen_.end(), same), seen_.end());
}

void Sampler::take(uint32_t token) {
  auto at = std::lower_bound(seen_.begin(), seen_.end(), Seen{token, 0});
  if (at == seen_.end() || at->id != token) at = seen_.insert(at, {token, 0});
  ++at->n_said;
  ++n_said_;
}

void Sampler::penalise(Values& values) const {
  if (!seen_.empty()) check_id("seen", seen_.back().id, values.size());
  const double repetition = spec_.repetition_penalty;
  if (repetition != 1)
    for (const Seen& seen : seen_) {
      double& value = values[seen.id];
      value = value > 0 ? value / repetition : value * repetition;
    }
  for (const auto& [id, bias] : spec_.bias) {
    check_id("logit_bias", id, values.size());
    values[id] += bias;
  }
  if (spec_.presence_penalty != 0 || spec_.frequency_penalty != 0)
    for (const Seen& seen : seen_)
      if (seen.n_said > 0)
        values[seen.id] -= spec_.presence_penalty + spec_.frequency_penalty * seen.n_said;
}

void Sampler::adjust(Values& values, std::span<const uint32_t> mask) const {
  if (!mask.empty() && mask.size() != (values.size() + 31) / 32)
    throw SessionError("[sampling] mask: expected ", (values.size() + 31) / 32, " words, found ",
                       mask.size());
  penalise(values);
  forbid(values, mask);
  std::vector<std::pair<uint32_t, double>> ends;
  if (n_said_ < spec_.min_tokens)
    for (const uint32_t id : spec_.ends)
      if (id < values.size()) ends.emplace_back(id, std::exchange(values[id], kForbidden));
  values.rank();
  if (values.largest() == kForbidden && !ends.empty()) {
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) values[end->first] = end->second;
    values.rank();
  }
  if (values.largest() == kForbidden)
    throw SessionError("[sampling] expected a token that is left, found all at -inf");
}

Choice Sampler::choose(std::span<const float> logits, double uniform,
                       std::span<const uint32_t> mask) const {
  check(uniform >= 0 && uniform < 1, "a uniform number in [0, 1)", uniform);
  Values values(logits);
  Choice choice;
  LogTotal total{};
  if (spec_.n_top) {
    values.rank();
    total = log_total(values);
    choice.top = top_logprobs(values, total, *spec_.n_top);
  }
  adjust(values, mask);
  choice.token = spec_.greedy ? values.first() : draw(std::move(values), spec_.filters, uniform);
  if (spec_.n_top) choice.logprob = total.of(logits[choice.token]);
  return choice;
}

Kept Sampler::distribution(std::span<const float> logits, std::span<const uint32_t> mask) const {
  Values values(logits);
  adjust(values, mask);
  return keep(std::move(values), spec_.filters);
}

}  // namespace moeflux::sampling
