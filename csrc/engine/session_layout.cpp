#include "engine/session_layout.h"

#include <algorithm>

namespace moeflux::engine {

SessionLayout::SessionLayout(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                             const base::Arena& arena)
    : arena_(arena), context_(context) {
  for (const model::Layer& layer : weights.layers) {
    const uint64_t begin =
        layers_.empty() ? 0 : layers_.back().cache_begin + 2 * layers_.back().block_bytes;
    Layer& own = layers_.emplace_back();
    own.cache_begin = begin;
    std::visit(
        [&](const auto& mixer) {
          own.state_bytes = mixer.state_floats() * sizeof(float);
          if (mixer.cache().n_heads == 0) return;
          own.block_bytes = ops.cache_form(mixer.cache()).block_bytes;
        },
        layer.mixer);
    arena.check_written(own.state_bytes, "a layer's recurrent state");
  }
  n_blocks_ = static_cast<uint32_t>(base::round_up(context, ops::kCacheBlock) / ops::kCacheBlock);
  extent_blocks_ = std::max(std::min(ops::kCacheExtent / ops::kCacheBlock, n_blocks_), 1u);
  // A device may have no buffer for all layers of an extent.
  apart_ = arena.booked_bytes(parts(extent_blocks_).front()) > arena.most_written();
  for (const uint64_t part : parts(extent_blocks_)) arena.check_written(part, "a layer's KV cache");
}

uint32_t SessionLayout::n_blocks(uint32_t index) const {
  return std::min(extent_blocks_, n_blocks_ - index * extent_blocks_);
}

std::vector<uint64_t> SessionLayout::parts(uint32_t n_blocks) const {
  if (!apart_)
    return {layers_.empty()
                ? 0
                : n_blocks * (layers_.back().cache_begin + 2 * layers_.back().block_bytes)};
  std::vector<uint64_t> parts;
  for (const Layer& layer : layers_) parts.insert(parts.end(), 2, n_blocks * layer.block_bytes);
  return parts;
}

uint64_t SessionLayout::states_bytes() const {
  uint64_t nbytes = 0;
  for (const Layer& layer : layers_) nbytes += layer.state_bytes;
  return nbytes;
}

uint64_t SessionLayout::saved_bytes(uint32_t positions) const {
  const uint64_t n_blocks =
      uint64_t{positions / extent()} * extent_blocks_ + tail_blocks(positions);
  uint64_t nbytes = positions ? states_bytes() : 0;
  for (const Layer& layer : layers_) nbytes += n_blocks * 2 * layer.block_bytes;
  return nbytes;
}

uint64_t SessionLayout::extent_bytes(uint32_t n_blocks) const {
  uint64_t nbytes = 0;
  for (const uint64_t part : parts(n_blocks)) nbytes += arena_.booked_bytes(part);
  return nbytes;
}

uint64_t SessionLayout::bytes(uint32_t positions) const {
  uint64_t nbytes = arena_.booked_bytes(table_bytes());
  for (const Layer& layer : layers_) nbytes += 2 * arena_.booked_bytes(layer.state_bytes);
  for (uint32_t i = 0; i < n_extents(positions); ++i) nbytes += extent_bytes(n_blocks(i));
  return nbytes;
}

}  // namespace moeflux::engine
