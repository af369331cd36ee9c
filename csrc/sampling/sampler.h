// Sampler: chooses the tokens of one sequence from its logits. Owns what it has seen; the uniform
// numbers of its draws are given. One thread, and no two calls at once.
#pragma once
#include <optional>

#include "sampling/filters.h"

namespace moeflux::sampling {

struct SampleSpec {
  bool greedy = true;             // the largest logit, of equals the lowest id; else a draw
  Filters filters;                // of a draw
  double repetition_penalty = 1;  // divides positive and multiplies negative logits of tokens seen
  double presence_penalty = 0;    // taken from the logits of tokens said
  double frequency_penalty = 0;   // taken once for each time that the token was said
  std::vector<std::pair<uint32_t, double>> bias;  // (id, what is added); -inf forbids
  std::vector<uint32_t> ends;  // not chosen before `min_tokens` others, unless nothing else is left
  uint64_t min_tokens = 0;
  std::optional<uint32_t> n_top;  // also tell logprobs, and so many alternatives
};

struct Choice {
  uint32_t token = 0;
  double logprob = 0;  // natural, of the logits as they are: before bias, penalties and filters
  std::vector<std::pair<uint32_t, double>> top;  // (id, logprob), best first
};

class Sampler {
 public:
  // seen: ids that come before what it chooses, for the repetition penalty. Throws SessionError for
  // filters that keep nothing: numbers out of range, or none.
  Sampler(SampleSpec spec, std::span<const uint32_t> seen);

  // The next token. logits (vocab); uniform in [0, 1), for a draw; mask (ceil(vocab / 32)): bit i of
  // word w allows token 32 w + i, empty allows all. Throws SessionError for logits or a mask that are
  // none, ids past the vocabulary, and where no token is left. Changes nothing.
  Choice choose(std::span<const float> logits, double uniform,
                std::span<const uint32_t> mask) const;
  // What a draw would draw from. Not for a greedy one.
  Kept distribution(std::span<const float> logits, std::span<const uint32_t> mask) const;
  void take(uint32_t token);  // goes on after a token

 private:
  void adjust(Values& values, std::span<const uint32_t> mask) const;
  void penalise(Values& values) const;

  struct Seen {
    uint32_t id, n_said;
    bool operator<(const Seen& other) const { return id < other.id; }
  };
  const SampleSpec spec_;
  std::vector<Seen> seen_;  // ascending, each id once
  uint64_t n_said_ = 0;
};

}  // namespace moeflux::sampling
