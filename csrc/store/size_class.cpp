#include "store/size_class.h"

#include <numeric>

namespace moeflux::store {

namespace {
bool share_a_class(uint64_t larger, uint64_t smaller) {
  return larger - smaller <= std::max(larger / 16, 2 * kSlotAlignment);
}
}  // namespace

uint64_t SizeClasses::n_experts() const {
  uint64_t n = 0;
  for (const SizeClass& size_class : classes) n += size_class.n_experts;
  return n;
}

SizeClasses size_classes(const std::vector<LayerExperts>& layers, const base::Arena& arena) {
  SizeClasses out;
  out.of_layer.resize(layers.size());
  std::vector<size_t> order(layers.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return layers[a].slot_bytes() > layers[b].slot_bytes(); });
  for (const size_t layer : order) {
    const uint64_t slot_bytes =
        arena.booked_bytes(std::max<uint64_t>(layers[layer].slot_bytes(), 1));
    if (out.classes.empty() || !share_a_class(out.classes.back().slot_bytes, slot_bytes))
      out.classes.push_back({slot_bytes, 0, 0});
    out.of_layer[layer] = static_cast<uint32_t>(out.classes.size() - 1);
    out.classes.back().n_experts += layers[layer].n_experts;
    ++out.classes.back().n_layers;
  }
  return out;
}

}  // namespace moeflux::store
