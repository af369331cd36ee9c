#include "engine/session_layout.h"

#include <map>

namespace moeflux::engine {

SessionLayout::SessionLayout(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                             const base::Arena& arena)
    : arena_(arena), context_(context) {
  std::map<uint32_t, std::vector<uint64_t>> block_bytes;  // of layers with a cache, by window
  for (const model::Layer& layer : weights.layers) {
    Layer& own = layers_.emplace_back();
    std::visit(
        [&](const auto& mixer) {
          const ops::CacheShape cache = mixer.cache();
          own.state_bytes = mixer.state_floats() * sizeof(float);
          if (cache.n_heads == 0) return;
          own.block_bytes = ops.cache_form(cache).block_bytes;
          own.window = cache.window;
          own.in_cache = block_bytes[cache.window].size();
          block_bytes[cache.window].push_back(own.block_bytes);
        },
        layer.mixer);
    arena.check_written(own.state_bytes, "a layer's recurrent state");
  }
  for (const auto& [window, layers] : block_bytes) {
    for (Layer& layer : layers_)
      if (layer.block_bytes && layer.window == window) layer.cache = caches_.size();
    caches_.emplace_back(window, context, weights.spec.chunk, layers, arena);
  }
}

uint32_t SessionLayout::extent() const {
  return caches_.empty() ? ops::kCacheExtent : caches_.front().extent();
}

uint64_t SessionLayout::states_bytes() const {
  uint64_t nbytes = 0;
  for (const Layer& layer : layers_) nbytes += layer.state_bytes;
  return nbytes;
}

uint64_t SessionLayout::saved_bytes(uint32_t positions) const {
  uint64_t nbytes = positions ? states_bytes() : 0;
  for (const CacheLayout& cache : caches_) nbytes += cache.saved_bytes(positions);
  return nbytes;
}

uint32_t SessionLayout::taken_back() const {
  if (states_bytes()) return 0;
  for (const CacheLayout& cache : caches_)
    if (cache.first_seen(context_)) return kTakenBack;
  return context_;
}

uint64_t SessionLayout::bytes(uint32_t positions) const {
  uint64_t nbytes = 0;
  for (const Layer& layer : layers_) nbytes += 2 * arena_.booked_bytes(layer.state_bytes);
  for (const CacheLayout& cache : caches_)
    nbytes += arena_.booked_bytes(cache.table_bytes()) + cache.bytes(positions);
  return nbytes;
}

uint64_t SessionLayout::peak_bytes() const {
  uint64_t nbytes = bytes(0);
  for (const CacheLayout& cache : caches_) nbytes += cache.peak_bytes();
  return nbytes;
}

}  // namespace moeflux::engine
