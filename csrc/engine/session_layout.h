// SessionLayout: what a session of a model is made of, and the bytes that takes. One for all
// sessions of a model. Layers that see equally far back share a KV cache.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/cache_layout.h"
#include "model/model.h"

namespace moeflux::engine {

class SessionLayout {
 public:
  // Throws GpuError when a block of it is more than the arena's device can write. REQUIRES: the
  // arena outlives it.
  SessionLayout(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                const base::Arena& arena);

  struct Layer {
    uint64_t block_bytes = 0;        // of keys, and of values: kCacheBlock positions; 0: no cache
    uint64_t state_bytes = 0;        // of a recurrent state
    uint32_t window = 0;             // of its cache
    size_t cache = 0, in_cache = 0;  // which of caches() it is in, and which of the layers there
  };
  const std::vector<Layer>& layers() const { return layers_; }
  const std::vector<CacheLayout>& caches() const { return caches_; }  // that have layers
  uint32_t context() const { return context_; }
  uint32_t extent() const;  // positions of one, at most

  uint64_t states_bytes() const;                   // of all layers' recurrent states
  uint64_t saved_bytes(uint32_t positions) const;  // of what SnapshotBytes has
  // Tokens that have been stepped and can always be taken back: all, a few behind a window, or none.
  uint32_t taken_back() const;

  // What is booked for a session that holds so many positions and shares none, between steps at
  // most; for one that goes up to the context, however it is stepped.
  uint64_t bytes(uint32_t positions) const;
  uint64_t peak_bytes() const;

 private:
  const base::Arena& arena_;
  uint32_t context_;
  std::vector<Layer> layers_;
  std::vector<CacheLayout> caches_;
};

}  // namespace moeflux::engine
