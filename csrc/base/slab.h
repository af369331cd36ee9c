// Where an expert's slot is, in 32 bits that kernels read too (shaders/slabs.h): a slab of the pool,
// and in the low bits the offset in it in units of kSlotAlignment.
#pragma once
#include <cstdint>

namespace moeflux::base {

inline constexpr uint64_t kSlotAlignment = 16384;  // a slot is whole pages on every machine

struct SlabEntry {
  static constexpr uint32_t kAbsent = UINT32_MAX;
  static constexpr uint64_t kMaxSlabBytes = 256 << 20;
  static constexpr uint32_t kOffsetBits = 14;
  static constexpr uint32_t kMaxSlabs = kAbsent >> kOffsetBits;
  static_assert(kMaxSlabBytes / kSlotAlignment == 1 << kOffsetBits);
  static constexpr uint32_t entry(uint64_t slab, uint64_t offset) {
    return static_cast<uint32_t>(slab << kOffsetBits | offset / kSlotAlignment);
  }
  static constexpr uint32_t slab_of(uint32_t entry) { return entry >> kOffsetBits; }
  static constexpr uint64_t offset_of(uint32_t entry) {
    return (entry & ((1u << kOffsetBits) - 1)) * kSlotAlignment;
  }
};

}  // namespace moeflux::base
