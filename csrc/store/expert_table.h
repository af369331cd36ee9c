// ExpertTable: where each expert lies, in memory that a device can read. An entry (base/slab.h) is
// there while the expert is in memory whole. A slot that is larger than kMaxSlabBytes has a slab for
// itself, and the offset 0. The store writes it with its lock held.
#pragma once
#include <algorithm>
#include <span>

#include "base/memory.h"
#include "base/slab.h"
#include "store/layer_experts.h"

namespace moeflux::store {

class ExpertTable : public base::SlabEntry {
 public:
  ExpertTable(base::Arena& arena, size_t n_keys)
      : memory_(arena, n_keys * sizeof(uint32_t), "the table of experts"), n_keys_(n_keys) {
    std::fill_n(memory_.mapped<uint32_t>(), n_keys, kAbsent);
  }
  static uint64_t bytes(const base::Arena& arena, size_t n_keys) {
    return arena.booked_bytes(n_keys * sizeof(uint32_t));
  }
  void set(int64_t key, uint32_t entry) { memory_.mapped<uint32_t>()[key] = entry; }
  void clear(int64_t key) { set(key, kAbsent); }
  std::span<const uint32_t> entries() const { return {memory_.mapped<uint32_t>(), n_keys_}; }

 private:
  base::Memory memory_;
  size_t n_keys_;
};

}  // namespace moeflux::store
