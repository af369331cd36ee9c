#include "engine/cache_layout.h"

namespace moeflux::engine {

namespace {

uint32_t quotient(uint64_t a, uint64_t b) {  // rounded up
  return static_cast<uint32_t>((a + b - 1) / b);
}

}  // namespace

CacheLayout::CacheLayout(uint32_t window, uint32_t context, uint32_t chunk,
                         std::span<const uint64_t> block_bytes, const base::Arena& arena)
    : arena_(arena),
      window_(window),
      context_(context),
      n_blocks_(quotient(context, ops::kCacheBlock)) {
  for (const uint64_t nbytes : block_bytes)
    layers_.push_back(
        {nbytes, layers_.empty() ? 0 : layers_.back().begin + 2 * layers_.back().block_bytes});
  extent_blocks_ = std::max(std::min(ops::kCacheExtent / ops::kCacheBlock, n_blocks_), 1u);
  if (window) {
    held_ = quotient(uint64_t{window} + kTakenBack - 1, extent()) + 1;
    turn_ = std::max(quotient(uint64_t{window} + chunk - 1, extent()), held_);
  }
  // A device may have no buffer for all layers of an extent.
  apart_ = arena.booked_bytes(parts(extent_blocks_).front()) > arena.most_written();
  for (const uint64_t part : parts(extent_blocks_)) arena.check_written(part, "a layer's KV cache");
}

std::vector<uint64_t> CacheLayout::parts(uint32_t n_blocks) const {
  if (!apart_) return {n_blocks * block_bytes()};
  std::vector<uint64_t> parts;
  for (const Layer& layer : layers_) parts.insert(parts.end(), 2, n_blocks * layer.block_bytes);
  return parts;
}

uint64_t CacheLayout::saved_bytes(uint32_t positions) const {
  const uint64_t full = positions / extent() - first_seen(positions);
  return (full * extent_blocks_ + tail_blocks(positions)) * block_bytes();
}

uint64_t CacheLayout::extent_bytes(uint32_t n_blocks) const {
  uint64_t nbytes = 0;
  for (const uint64_t part : parts(n_blocks)) nbytes += arena_.booked_bytes(part);
  return nbytes;
}

uint64_t CacheLayout::first_bytes(uint32_t n_extents) const {
  uint64_t nbytes = 0;
  for (uint32_t i = 0; i < n_extents; ++i) nbytes += extent_bytes(n_blocks(i));
  return nbytes;
}

}  // namespace moeflux::engine
