#include "engine/score.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "sampling/values.h"

namespace moeflux::engine {

void score(Engine& engine, Request request, std::optional<uint32_t> following, const Scores& out) {
  std::vector<uint32_t> tokens(request.tokens.begin(), request.tokens.end());
  const uint32_t vocab = request.session->weights().spec.vocab;
  if (following && *following >= vocab)
    throw SessionError("[engine::score] following: expected a token id below ", vocab, ", found ",
                       *following);
  if (following) tokens.push_back(*following);
  const float unknown = std::numeric_limits<float>::quiet_NaN();
  if (!tokens.empty()) {
    out.logprobs[0] = unknown;
    out.greedy[0] = false;
    std::fill_n(out.ids, out.n_top, 0);
    std::fill_n(out.values, out.n_top, unknown);
  }
  request.all_logits = true;
  request.on_logits = [&](uint32_t token, const float* logits) {
    const uint32_t at = token + 1;
    if (at == tokens.size()) return;
    sampling::Values values({logits, vocab});
    values.rank();
    const sampling::LogTotal total = log_total(values);
    out.logprobs[at] = static_cast<float>(total.of(logits[tokens[at]]));
    out.greedy[at] = values.first() == tokens[at];
    uint64_t place = uint64_t(at) * out.n_top;
    for (const auto& [id, logprob] : top_logprobs(values, total, out.n_top)) {
      out.ids[place] = id;
      out.values[place++] = static_cast<float>(logprob);
    }
  };
  engine.step({&request, 1});
}

}  // namespace moeflux::engine
