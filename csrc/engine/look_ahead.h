// LookAhead: reads on a guess. The next MoE layer's router is asked of what the residual stream
// holds before this layer's experts. A layer adds little to the stream, so that most of the answers
// are right (benchmarks/notebook.md); a wrong one costs a read and changes no result.
#pragma once
#include <span>
#include <vector>

#include "engine/pass.h"
#include "engine/tools.h"
#include "engine/trust.h"

namespace moeflux::engine {

class LookAhead {
 public:
  // Not `enabled`: guesses nothing.
  LookAhead(const Tools& tools, bool enabled);

  // Enqueues the router of the MoE layer behind layer `index`, where a guess could help. To be
  // called before the layer's own normed input is read: rows are prepared for one input at a time.
  void guess(const Pass& pass, size_t index);
  // What the router of a layer has chosen: judges the guess that was made of it.
  void judge(uint32_t store_layer, std::span<const uint32_t> chosen);
  // Unpins what was guessed of the layer at work: its demands have pins of their own. False when
  // nothing was pinned.
  bool release();
  // Pins and reads what guess() named; nothing, when that is done. REQUIRES: its ticket is done.
  void read();
  void abandon();                      // after an error
  bool helps(const Pass& pass) const;  // whether it guesses for such a pass

 private:
  const Tools tools_;
  const bool enabled_;
  Trust trust_;
  const model::Moe* next_ = nullptr;           // guessed and not read
  uint32_t n_rows_ = 0;                        // of the guess
  std::vector<uint32_t> missing_;              // guessed experts that were not in memory
  std::vector<store::ExpertStore::Pin> pins_;  // of the next layer's
  std::vector<store::ExpertStore::Pin> due_;   // of the layer at work
};

}  // namespace moeflux::engine
