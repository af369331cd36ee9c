// Session: one sequence's KV caches, recurrent state and length. Committed state and working state
// of a layer are two blocks: a step writes the second and swaps when it has succeeded, so it
// happens whole or not at all. (KV rows behind `position` are never read, so the cache needs no
// copy.)
#pragma once
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/session_layout.h"

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
  uint64_t growth_bytes(uint64_t n_tokens) const;
  void grow(uint64_t n_tokens);
  void trim();
  // What layer `index` reads and writes of this session. `first`: nothing of the step has been
  // computed yet, so recurrent state comes from the last commit. Rows are the caller's.
  ops::Segment segment(size_t index, bool first) const;
  void commit(uint32_t n_tokens);  // the step has succeeded

  struct Snapshot {
    uint32_t positions = 0;
    base::Memory states;
    std::vector<KvCache::Held> caches;
    // Of its own: full extents of the caches are the session's, too.
    uint64_t nbytes() const;
    // Those full extents: where they lie, and what they take.
    std::vector<std::pair<const void*, uint64_t>> extents() const;
  };
  uint64_t snapshot_bytes() const;  // what save() books
  std::shared_ptr<Snapshot> save() const;
  // One of so many positions, all zeros, which SnapshotBytes fills, and what it books. REQUIRES: the
  // context is as long.
  static uint64_t blank_bytes(const SessionLayout& layout, uint32_t positions,
                              const base::Arena& arena);
  static std::shared_ptr<Snapshot> blank(const SessionLayout& layout, uint32_t positions,
                                         base::Arena& arena);
  // What that books at most, and doing it: whole or not at all. REQUIRES: the context is as long.
  uint64_t restore_bytes(const Snapshot& snapshot) const { return tails_bytes(snapshot.positions); }
  void restore(const Snapshot& snapshot);
  // A session that holds the same, what it books, and doing it.
  uint64_t fork_bytes() const;
  std::shared_ptr<Session> fork() const;
  // Forgets all but the first n tokens. What that books, and doing it: whole or not at all. Throws
  // SessionError when n is more than position() or less than least_tokens(): the past of recurrent
  // state is gone, and what a window has passed.
  uint32_t least_tokens() const;
  uint64_t truncate_bytes(uint32_t n) const;
  void truncate(uint32_t n);

 private:
  const model::Weights& weights_;
  const SessionLayout& layout_;
  base::Arena& arena_;
  // Of each cache, for going to so many positions: KvCache::new_tail.
  uint64_t tails_bytes(uint32_t positions) const;
  std::vector<KvCache::Memory> new_tails(uint32_t positions) const;

  std::vector<KvCache> caches_;
  struct State {
    base::Memory memory[2];  // committed, working
  };
  std::vector<State> states_;  // by layer
  std::atomic<uint32_t> position_ = 0;
  uint32_t committed_ = 0;
};

}  // namespace moeflux::engine
