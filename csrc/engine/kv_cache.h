// KvCache: the keys and values of one sequence, in extents that are booked as they are needed. A
// full extent is not written again, so that snapshots and other sequences may hold it, too; one
// that is being filled has one owner.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "engine/session_layout.h"

namespace moeflux::engine {

class CacheMemory {  // an extent, all layers' keys and values
 public:
  // Throws MemoryBudgetError, GpuError.
  CacheMemory(const SessionLayout& layout, uint32_t n_blocks, base::Arena& arena,
              const std::string& what);
  ops::CacheExtent of_layer(size_t index) const;
  void copy(const CacheMemory& from, uint32_t n_blocks);  // its first blocks
  uint64_t nbytes() const;                                // booked
  // All of it: layer by layer the blocks of keys, then those of values.
  std::vector<std::span<std::byte>> spans() const;

 private:
  const SessionLayout& layout_;
  uint32_t n_blocks_;
  std::vector<base::Memory> parts_;
};

class KvCache {
 public:
  // REQUIRES: layout and arena outlive it. Throws MemoryBudgetError, GpuError.
  KvCache(const SessionLayout& layout, base::Arena& arena);

  // For stages: a layer's extents, in a table of the arena.
  const ops::CacheExtent* of_layer(size_t index) const {
    return table_.as<ops::CacheExtent>() + index * most_;
  }
  // The blocks in which they lie (ops::Segment::blocks), of all its extents.
  std::shared_ptr<const base::BlockList> blocks_of_layer(size_t index) const;
  // To have room for so many positions: what that books, and doing it. After an error trim().
  uint64_t growth_bytes(uint32_t positions) const;
  void grow(uint32_t positions);
  void trim(uint32_t positions);  // gives back what holds none of the first `positions`

  struct Held {  // the first positions of a cache
    uint32_t positions = 0;
    std::vector<std::shared_ptr<CacheMemory>> full;
    std::shared_ptr<CacheMemory> tail;  // of the rest; null: there is none
  };
  // As they are, for restore() of an empty cache, and what that books.
  Held hold(uint32_t positions) const;
  uint64_t fork_bytes(uint32_t positions) const { return whole_tail_bytes(positions); }
  // The full extents are shared; the tail is a copy.
  uint64_t save_bytes(uint32_t positions) const;
  Held save(uint32_t positions) const;
  // The same for a cache that is to be read from somewhere: zeros.
  static uint64_t blank_bytes(const SessionLayout& layout, uint32_t positions);
  static Held blank(const SessionLayout& layout, uint32_t positions, base::Arena& arena);
  // Holds them in the place of all else, the tail as a copy. What that books at most, and doing it:
  // whole or not at all.
  uint64_t restore_bytes(const Held& held) const { return tail_bytes(held.positions); }
  void restore(const Held& held);
  // Holds its first positions alone. The same: of an extent that others hold it keeps a copy.
  uint64_t truncate_bytes(uint32_t positions) const { return tail_bytes(positions); }
  void truncate(uint32_t positions);

 private:
  uint64_t whole_tail_bytes(uint32_t positions) const;  // of the extent that it lies in
  uint64_t tail_bytes(uint32_t positions) const {       // where that is not its own yet
    return owns(positions / layout_.extent()) ? 0 : whole_tail_bytes(positions);
  }
  bool owns(size_t index) const {  // whether that extent is there, and nobody else's
    return index < extents_.size() && extents_[index].use_count() == 1;
  }
  std::shared_ptr<CacheMemory> make(size_t index) const;
  void add(std::shared_ptr<CacheMemory> extent);
  void pop() {
    lists_.clear();
    extents_.pop_back();
  }

  const SessionLayout& layout_;
  base::Arena& arena_;
  const uint32_t most_;  // extents
  std::vector<std::shared_ptr<CacheMemory>> extents_;
  base::Memory table_;  // (layers, most_) of ops::CacheExtent
  // One for all layers, or one each; made when it is asked for, null where compute follows pointers.
  mutable std::vector<std::optional<std::shared_ptr<const base::BlockList>>> lists_;
};

}  // namespace moeflux::engine
