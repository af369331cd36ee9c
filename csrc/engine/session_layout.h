// SessionLayout: what a session of a model is made of, and the bytes that takes. One for all
// sessions of a model. The keys and values of all layers lie in extents of consecutive positions,
// so that a session takes what it holds, rounded up to an extent.
#pragma once
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "model/model.h"

namespace moeflux::engine {

class SessionLayout {
 public:
  // Throws GpuError when a block of it is more than the arena's device can write. REQUIRES: the
  // arena outlives it.
  SessionLayout(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                const base::Arena& arena);

  struct Layer {
    uint64_t block_bytes = 0;  // of keys, and of values: kCacheBlock positions; 0: no cache
    uint64_t cache_begin = 0;  // bytes of a block of all layers before it
    uint64_t state_bytes = 0;  // of a recurrent state
  };
  const std::vector<Layer>& layers() const { return layers_; }
  uint32_t context() const { return context_; }
  uint32_t extent() const {
    return extent_blocks_ * ops::kCacheBlock;
  }  // positions of one, at most
  uint32_t n_extents(uint32_t positions) const { return (positions + extent() - 1) / extent(); }
  uint32_t n_blocks(uint32_t index) const;  // of an extent: the last one ends with the context
  // Blocks of the positions that are in no full extent.
  uint32_t tail_blocks(uint32_t positions) const {
    return (positions % extent() + ops::kCacheBlock - 1) / ops::kCacheBlock;
  }
  // The blocks of memory that an extent lies in, in bytes.
  std::vector<uint64_t> parts(uint32_t n_blocks) const;
  bool apart() const {
    return apart_;
  }  // each layer's keys, and its values, in a block of their own
  uint64_t table_bytes() const {
    return layers_.size() * n_extents(context_) * sizeof(ops::CacheExtent);
  }

  uint64_t states_bytes() const;                   // of all layers' recurrent states
  uint64_t saved_bytes(uint32_t positions) const;  // of what SnapshotBytes has

  // What is booked for an extent; for a session that holds so many positions and shares none.
  uint64_t extent_bytes(uint32_t n_blocks) const;
  uint64_t bytes(uint32_t positions) const;

 private:
  const base::Arena& arena_;
  uint32_t context_, n_blocks_, extent_blocks_;
  bool apart_ = false;
  std::vector<Layer> layers_;
};

}  // namespace moeflux::engine
