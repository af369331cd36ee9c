// Session: one sequence's KV cache, recurrent state and length. Each layer has blocks of its own,
// so that the longest context is that of the largest block that a device can write, not of the sum
// of all. Committed state and working state are two blocks: a step writes the second and swaps when
// it has succeeded, so it happens whole or not at all. (KV rows behind `position` are never read,
// so the cache needs no copy.)
#pragma once
#include <memory>
#include <vector>

#include "base/memory.h"
#include "model/model.h"

namespace moeflux::engine {

class Session {
 public:
  // `ops` says how large the cache is. REQUIRES: weights and arena outlive it. Throws
  // MemoryBudgetError, GpuError.
  Session(const model::Weights& weights, uint32_t context, const ops::Ops& ops, base::Arena& arena);
  // What a session takes. Throws GpuError when a layer's cache or state is more than the arena's
  // device can write.
  static uint64_t bytes(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                        const base::Arena& arena);

  const model::Weights& weights() const { return weights_; }
  uint32_t position() const { return position_; }
  uint32_t context() const { return context_; }
  void reset();

  // What layer `index` reads and writes of this session. `first`: nothing of the step has been
  // computed yet, so recurrent state comes from the last commit. Rows are the caller's.
  ops::Segment segment(size_t index, bool first) const;
  void commit(uint32_t n_tokens);  // the step has succeeded

  struct Snapshot {
    base::Memory memory;
    uint32_t position = 0;
  };
  uint64_t snapshot_bytes() const;
  std::shared_ptr<Snapshot> save(base::Arena& arena) const;
  void restore(const Snapshot& snapshot);

 private:
  struct Layer {
    uint64_t block_bytes = 0;      // of keys, and of values (ops.h); 0: no cache
    base::Memory keys, values;     // of the whole context
    uint64_t recurrent_bytes = 0;  // of a state, which the conv state follows
    uint64_t state_bytes = 0;      // of both
    base::Memory state[2];         // committed, working
  };
  uint64_t cached_bytes(const Layer& layer, uint32_t positions) const;  // of keys, and of values
  const model::Weights& weights_;
  uint32_t context_;
  uint32_t position_ = 0;
  std::vector<Layer> layers_;
  uint32_t committed_ = 0;
};

}  // namespace moeflux::engine
