#include "engine/score.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moeflux::engine {

void score(Engine& engine, Request request, float* logprobs, bool* greedy) {
  const std::span<const uint32_t> tokens = request.tokens;
  const uint32_t vocab = request.session->weights().spec.vocab;
  if (!tokens.empty()) {
    logprobs[0] = std::numeric_limits<float>::quiet_NaN();
    greedy[0] = false;
  }
  request.all_logits = true;
  request.on_logits = [&](uint32_t token, const float* logits) {
    if (token + 1 == tokens.size()) return;
    const uint32_t next = tokens[token + 1];
    const float* best = std::max_element(logits, logits + vocab);  // the first of equals
    double total = 0;
    for (uint32_t i = 0; i < vocab; ++i) total += std::exp(double(logits[i]) - *best);
    logprobs[token + 1] = static_cast<float>(double(logits[next]) - *best - std::log(total));
    greedy[token + 1] = best == logits + next;
  };
  engine.step({&request, 1});
}

}  // namespace moeflux::engine
