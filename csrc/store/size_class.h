// Size classes: layers whose experts take slots of the same size.
#pragma once
#include <cstdint>
#include <vector>

#include "store/layer_experts.h"

namespace moeflux::store {

struct SizeClass {
  uint64_t slot_bytes = 0;  // whole granules of the arena
  uint64_t n_experts = 0;   // of all its layers
  uint32_t n_layers = 0;
};

struct SizeClasses {
  std::vector<SizeClass> classes;  // the largest slots first
  std::vector<uint32_t> of_layer;  // index of a class

  uint64_t n_experts() const;
  uint64_t slot_bytes() const { return classes.empty() ? 0 : classes.front().slot_bytes; }
};

// Layers share a class when their slots differ little: each class has a minimum of slots of its own,
// and formats that differ differ by more (Q4_K and Q6_K beside each other: 13 %). Where the
// ranges of layers of one shape begin in a page moves a slot's end, mostly by less than that.
SizeClasses size_classes(const std::vector<LayerExperts>& layers, const base::Arena& arena);

}  // namespace moeflux::store
