// ExpertTable: where each expert lies, in memory that a device can read. An entry is a slab of the
// pool and a place in it; it is there while the expert is in memory whole. The store writes it with
// its lock held. No kernel reads it yet.
#pragma once
#include <algorithm>
#include <span>

#include "base/memory.h"
#include "store/layer_experts.h"

namespace moeflux::store {

class ExpertTable {
 public:
  static constexpr uint32_t kAbsent = UINT32_MAX;
  static constexpr uint64_t kMaxSlabBytes = 256 << 20;
  // An entry: the slab, and in the low bits the offset in it in units of kSlotAlignment. A slot that
  // is larger than kMaxSlabBytes has a slab for itself, and the offset 0.
  static constexpr uint32_t kOffsetBits = 14;
  static constexpr uint32_t kMaxSlabs = kAbsent >> kOffsetBits;
  static_assert(kMaxSlabBytes / kSlotAlignment == 1 << kOffsetBits);
  static uint32_t entry(uint64_t slab, uint64_t offset) {
    return static_cast<uint32_t>(slab << kOffsetBits | offset / kSlotAlignment);
  }
  static uint32_t slab_of(uint32_t entry) { return entry >> kOffsetBits; }
  static uint64_t offset_of(uint32_t entry) {
    return (entry & ((1u << kOffsetBits) - 1)) * kSlotAlignment;
  }

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
