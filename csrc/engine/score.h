// Scores: how probable a model finds a given text. Logits of all of its tokens never exist at once.
#pragma once
#include "engine/engine.h"

namespace moeflux::engine {

// Where to write what is found of n tokens. What precedes the first is not known: NaN, false, and
// of the most probable ones id 0.
struct Scores {
  float* logprobs;          // (n): natural log of the probability of each after those before it
  bool* greedy;             // (n): whether it was the most probable, of equals the lowest id
  uint32_t n_top = 0;       // most probable tokens in each place
  uint32_t* ids = nullptr;  // (n, n_top): best first, of equals the lower id
  float* values = nullptr;  // (n, n_top): their logprobs, of the same float as that of a token
};

// Appends request.tokens as a step does, whole or not at all; its on_logits and all_logits are set
// here. `following` would come next: it is scored as one more, and not appended. Throws what a step
// does.
void score(Engine& engine, Request request, std::optional<uint32_t> following, const Scores& out);

}  // namespace moeflux::engine
