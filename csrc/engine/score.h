// Scores: how probable a model finds a given text. Logits of all of its tokens never exist at once.
#pragma once
#include "engine/engine.h"

namespace moeflux::engine {

// Appends request.tokens as a step does, whole or not at all; its on_logits and all_logits are set
// here. logprobs (n): natural log of the probability of tokens[i] after those before it; greedy
// (n): whether it was the most probable. What precedes tokens[0] is not known: NaN, false.
void score(Engine& engine, Request request, float* logprobs, bool* greedy);

}  // namespace moeflux::engine
