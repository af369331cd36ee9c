// KvCache: the keys and values of one sequence and of the layers that see equally far back, in
// extents that are booked as they are needed. A full extent is not written again, so that snapshots
// and other sequences may hold it, too; one that is being filled has one owner. What a window has
// left behind goes at the commit, so that a step that fails finds all that was there. The extents
// of a long step itself go round: one that its later rows do not see is filled again.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "engine/cache_layout.h"

namespace moeflux::engine {

class CacheMemory {  // an extent, all layers' keys and values
 public:
  // Throws MemoryBudgetError, GpuError.
  CacheMemory(const CacheLayout& layout, uint32_t n_blocks, base::Arena& arena,
              const std::string& what);
  ops::CacheExtent of_layer(size_t index) const;
  void copy(const CacheMemory& from, uint32_t n_blocks);  // its first blocks
  uint64_t nbytes() const;                                // booked
  // All of it: layer by layer the blocks of keys, then those of values.
  std::vector<std::span<std::byte>> spans() const;

 private:
  const CacheLayout& layout_;
  uint32_t n_blocks_;
  std::vector<base::Memory> parts_;
};

class KvCache {
 public:
  // REQUIRES: layout and arena outlive it. Throws MemoryBudgetError, GpuError.
  KvCache(const CacheLayout& layout, base::Arena& arena);

  // For stages: the extents of a layer (of the layout's), in a table of the arena.
  const ops::CacheExtent* of_layer(size_t index) const {
    return table_.as<ops::CacheExtent>() + index * layout_.most_extents();
  }
  // The blocks in which they lie (ops::Segment::blocks), of all its extents.
  std::shared_ptr<const base::BlockList> blocks_of_layer(size_t index) const;
  // To have room for so many positions: what that books, and doing it. After an error trim().
  uint64_t growth_bytes(uint32_t positions) const;
  void grow(uint32_t positions);
  void trim(uint32_t positions);    // gives back what holds none of the first `positions`
  void commit(uint32_t positions);  // so many are there now: gives back what a window has passed

  struct Held {  // of the first positions of a cache, what rows behind them see
    uint32_t positions = 0;
    std::vector<std::shared_ptr<CacheMemory>> full;  // from the layout's first_seen() on
    std::shared_ptr<CacheMemory> tail;               // of the rest; null: there is none
    uint64_t nbytes() const { return tail ? tail->nbytes() : 0; }  // its own
  };
  // As they are, for restore() of an empty cache, and what that books.
  Held hold(uint32_t positions) const;
  uint64_t fork_bytes(uint32_t positions) const { return whole_tail_bytes(positions); }
  // The full extents are shared; the tail is a copy.
  uint64_t save_bytes(uint32_t positions) const;
  Held save(uint32_t positions) const;
  // The same for a cache that is to be read from somewhere: zeros.
  static uint64_t blank_bytes(const CacheLayout& layout, uint32_t positions);
  static Held blank(const CacheLayout& layout, uint32_t positions, base::Arena& arena);
  // What restore() and truncate() of so many positions need, and what that books at most: a copy of
  // the extent that they end in, where others hold that, too.
  using Memory = std::shared_ptr<CacheMemory>;
  uint64_t tail_bytes(uint32_t positions) const {
    return owns_tail(positions) ? 0 : whole_tail_bytes(positions);
  }
  Memory new_tail(uint32_t positions) const;  // null where none is needed
  // Holds them in the place of all else.
  void restore(const Held& held, Memory new_tail) noexcept;
  // Holds its first positions alone. REQUIRES: from least() to what it holds.
  void truncate(uint32_t positions, Memory new_tail) noexcept;
  uint32_t least() const { return layout_.least_positions(first_); }

 private:
  uint64_t whole_tail_bytes(uint32_t positions) const;  // of the extent that it lies in
  bool owns_tail(uint32_t positions) const {  // whether that extent is there, and nobody else's
    const uint32_t index = positions / layout_.extent();
    return index < extents_.size() && extents_[index].use_count() == 1;
  }
  Memory make(size_t index) const;
  void set(size_t index, Memory extent);  // in the table, too; null: nothing is there
  void add(Memory extent);
  void pop();

  const CacheLayout& layout_;
  base::Arena& arena_;
  std::vector<Memory> extents_;  // null before first_
  uint32_t first_ = 0;
  base::Memory table_;  // (layers, most extents) of ops::CacheExtent
  // One for all layers, or one each; made when it is asked for, null where compute follows pointers.
  mutable std::vector<std::optional<std::shared_ptr<const base::BlockList>>> lists_;
};

}  // namespace moeflux::engine
