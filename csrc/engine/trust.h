// Trust: how many of the experts that were guessed lately were wanted, by layer. Where guesses
// often fail, reading on them costs more of the disk than it hides; they are judged all the same,
// so that a layer can win trust back. Chosen by reckoning, not measured (benchmarks/notebook.md).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moeflux::engine {

class Trust {
 public:
  explicit Trust(size_t n_layers) : share_(n_layers, 1.0f) {}  // until shown otherwise

  bool holds(uint32_t layer) const { return share_[layer] >= kLeast; }
  // Of n experts guessed for one pass of the layer, so many were wanted.
  void see(uint32_t layer, uint32_t wanted, uint32_t n) {
    if (n == 0) return;
    share_[layer] += kStep * (static_cast<float>(wanted) / static_cast<float>(n) - share_[layer]);
  }

 private:
  static constexpr float kLeast = 0.6f;      // of guesses must come true
  static constexpr float kStep = 1.0f / 64;  // a pass counts half after 44 more
  std::vector<float> share_;                 // by MoE layer
};

}  // namespace moeflux::engine
