#include "engine/wide_pass.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moeflux::engine {

uint32_t rows_asked_for(uint32_t rows, uint32_t chunk) {
  if (rows == 0) return chunk;
  const uint32_t most = std::max(chunk, kMostRows);
  if (rows < chunk || rows > most)
    throw FormatError("[engine::Engine] rows: expected ", chunk, "..", most,
                      ", a chunk of this model or more, found ", rows);
  return rows;
}

std::vector<uint32_t> wider_passes(const model::Weights& weights, const base::Arena& arena,
                                   const Options& options) {
  std::vector<uint32_t> wider;
  if (options.rows != 0 || weights.top_k() == 0) return wider;
  for (uint32_t rows = 2 * weights.spec.chunk; rows <= kMostRows; rows *= 2)
    if (rows / 2 < options.context && Activations::fits(weights, rows, arena))
      wider.push_back(rows);
  return wider;
}

uint32_t Engine::widen(std::span<const Request> requests) {
  uint64_t n_tokens = 0;
  for (const Request& request : requests) n_tokens += request.tokens.size();
  const uint32_t chunk = weights_->spec.chunk;
  if (options_.rows == 0 && store_->holds_all()) return chunk;  // nothing is read
  // Sessions that share a pass are cut where its width says. Where a row's bits depend on the rows
  // beside it that must not follow from the memory that is free.
  const bool alone = requests.size() == 1 && requests[0].routing == nullptr;
  if (!alone && !ops_->takes_passes()) return chunk;
  for (uint64_t rows = std::min<uint64_t>(rows_, n_tokens); rows > chunk; rows /= 2) {
    const auto n = static_cast<uint32_t>(rows);
    const uint64_t nbytes = Activations::bytes(*weights_, n, options_.read_ahead, *arena_);
    const uint64_t most = free_bytes() / (options_.rows == 0 ? store::kPassPart : 1);
    if (nbytes > most || !try_room(nbytes)) continue;
    try {
      narrow_act_ = std::exchange(act_, {*weights_, n, options_.read_ahead, *arena_});
      return n;
    } catch (const Error&) {  // the system refuses it, or the device: a chunk's are there
    }
  }
  return chunk;
}

void Engine::narrow() noexcept {
  if (narrow_act_) act_ = std::move(*narrow_act_);
  narrow_act_.reset();
}

}  // namespace moeflux::engine
