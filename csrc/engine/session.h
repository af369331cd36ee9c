// Session: one sequence's KV cache, recurrent state and length. Committed state and working state
// of a layer are two blocks: a step writes the second and swaps when it has succeeded, so it
// happens whole or not at all. (KV rows behind `position` are never read, so the cache needs no
// copy.)
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "engine/kv_cache.h"

namespace moeflux::engine {

class Session {
 public:
  // Empty. REQUIRES: weights, layout and arena outlive it. Throws MemoryBudgetError, GpuError.
  Session(const model::Weights& weights, const SessionLayout& layout, base::Arena& arena);

  const model::Weights& weights() const { return weights_; }
  const SessionLayout& layout() const { return layout_; }
  uint32_t position() const { return position_; }  // any thread, also while another one steps
  uint32_t context() const { return layout_.context(); }
  void reset();

  // Room for n_tokens more: what that books, and doing it. trim() gives back what a step that
  // failed has not filled.
  uint64_t growth_bytes(uint64_t n_tokens) const {
    return cache_.growth_bytes(static_cast<uint32_t>(position_ + n_tokens));
  }
  void grow(uint64_t n_tokens) { cache_.grow(static_cast<uint32_t>(position_ + n_tokens)); }
  void trim() { cache_.trim(position_); }
  // What layer `index` reads and writes of this session. `first`: nothing of the step has been
  // computed yet, so recurrent state comes from the last commit. Rows are the caller's.
  ops::Segment segment(size_t index, bool first) const;
  void commit(uint32_t n_tokens);  // the step has succeeded

  struct Snapshot {
    base::Memory states;
    KvCache::Held cache;
    // Of its own: full extents of the cache are the session's, too.
    uint64_t nbytes() const { return states.nbytes() + (cache.tail ? cache.tail->nbytes() : 0); }
  };
  uint64_t snapshot_bytes() const;  // what save() books
  std::shared_ptr<Snapshot> save() const;
  // One of so many positions, all zeros, which SnapshotBytes fills, and what it books. REQUIRES: the
  // context is as long.
  static uint64_t blank_bytes(const SessionLayout& layout, uint32_t positions,
                              const base::Arena& arena);
  static std::shared_ptr<Snapshot> blank(const SessionLayout& layout, uint32_t positions,
                                         base::Arena& arena);
  // What that books at most, and doing it: whole or not at all. Throws SessionError when the
  // context is too short.
  uint64_t restore_bytes(const Snapshot& snapshot) const {
    return cache_.restore_bytes(snapshot.cache);
  }
  void restore(const Snapshot& snapshot);
  // A session that holds the same, what it books, and doing it.
  uint64_t fork_bytes() const { return layout_.bytes(0) + cache_.fork_bytes(position_); }
  std::shared_ptr<Session> fork() const;
  // Forgets all but the first n tokens. What that books, and doing it: whole or not at all. Throws
  // SessionError when there are not so many, or a layer has recurrent state, whose past is gone.
  bool truncatable() const { return layout_.states_bytes() == 0; }
  uint64_t truncate_bytes(uint32_t n) const;
  void truncate(uint32_t n);

 private:
  const model::Weights& weights_;
  const SessionLayout& layout_;
  base::Arena& arena_;
  KvCache cache_;
  struct State {
    base::Memory memory[2];  // committed, working
  };
  std::vector<State> states_;  // by layer
  std::atomic<uint32_t> position_ = 0;
  uint32_t committed_ = 0;
};

}  // namespace moeflux::engine
