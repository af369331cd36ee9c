// CacheLayout: how the keys and values of the layers that see equally far back lie in a session's KV
// cache: in extents of consecutive positions, so that it takes what it holds, rounded up to an
// extent. Behind a sliding window it holds what rows to come may see. One for all sessions of a
// model.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "ops/ops.h"

namespace moeflux::engine {

inline constexpr uint32_t kTakenBack = 64;  // tokens of its last that a window can do without

class CacheLayout {
 public:
  // Of layers that see `window` positions, their own among them (0: all), and go through attention
  // in chunks of up to `chunk` rows; `block_bytes`: by layer, of keys, and of values, of a block of
  // positions. Throws GpuError when a block of memory is more than the arena's device can write.
  // REQUIRES: the arena outlives it.
  CacheLayout(uint32_t window, uint32_t context, uint32_t chunk,
              std::span<const uint64_t> block_bytes, const base::Arena& arena);

  struct Layer {
    uint64_t block_bytes = 0;  // of keys, and of values: kCacheBlock positions
    uint64_t begin = 0;        // bytes of a block of all layers before it
  };
  const std::vector<Layer>& layers() const { return layers_; }
  uint32_t window() const { return window_; }
  uint32_t extent() const { return extent_blocks_ * ops::kCacheBlock; }  // positions, at most
  uint32_t n_extents(uint32_t positions) const { return (positions + extent() - 1) / extent(); }
  uint32_t most_extents() const { return n_extents(context_); }  // numbers that extents can have
  // Blocks of an extent. The last one ends with the context, unless it may be an earlier one's memory.
  uint32_t n_blocks(uint32_t index) const {
    if (turn_ < most_extents()) return extent_blocks_;
    return std::min(extent_blocks_, n_blocks_ - index * extent_blocks_);
  }
  // Blocks of the positions that are in no full extent.
  uint32_t tail_blocks(uint32_t positions) const {
    return (positions % extent() + ops::kCacheBlock - 1) / ops::kCacheBlock;
  }

  // The first extent that rows behind so many positions see; the first that is held there, from the
  // commit on, so that kTakenBack of them can be taken back.
  uint32_t first_seen(uint32_t positions) const {
    return window_ && positions >= window_ ? (positions + 1 - window_) / extent() : 0;
  }
  uint32_t first_held(uint32_t positions) const {
    return first_seen(positions - std::min(positions, kTakenBack));
  }
  // The fewest positions behind which rows see nothing before this extent.
  uint32_t least_positions(uint32_t first) const {
    return first ? first * extent() + window_ - 1 : 0;
  }
  // Extents that a step fills before it fills the first of them again: what rows of a chunk see is
  // never written to by rows of the same one, and what is held in the end is all there.
  uint32_t turn() const { return turn_; }

  // The blocks of memory that an extent lies in, in bytes.
  std::vector<uint64_t> parts(uint32_t n_blocks) const;
  bool apart() const {
    return apart_;
  }  // each layer's keys, and its values, in a block of their own
  uint64_t table_bytes() const {
    return layers_.size() * most_extents() * sizeof(ops::CacheExtent);
  }
  // Of the positions that a snapshot of so many has.
  uint64_t saved_bytes(uint32_t positions) const;
  // What is booked: for an extent; for a cache of so many positions at most, between steps; for one
  // that grows up to the context, however it is stepped. The last two without the table.
  uint64_t extent_bytes(uint32_t n_blocks) const;
  uint64_t bytes(uint32_t positions) const {
    return first_bytes(std::min(n_extents(positions), held_));
  }
  uint64_t peak_bytes() const {
    return first_bytes(window_ ? std::min(most_extents(), turning_extents()) : most_extents());
  }
  // Of a window: extents at most, however long the context is.
  uint32_t turning_extents() const { return held_ + turn_; }

 private:
  uint64_t block_bytes() const { return layers_.back().begin + 2 * layers_.back().block_bytes; }
  uint64_t first_bytes(uint32_t n_extents) const;  // of so many extents, from the first on

  const base::Arena& arena_;
  uint32_t window_, context_, n_blocks_, extent_blocks_;
  uint32_t held_ = UINT32_MAX, turn_ = UINT32_MAX;  // extents: between steps at most, and turn()
  bool apart_ = false;
  std::vector<Layer> layers_;
};

}  // namespace moeflux::engine
