// Experts in slots: where a slot is, from the list of slabs and an entry of the table of experts
// (csrc/base/slab.h). The list holds (address, bytes) of each slab, so that a kernel reaches any
// expert without a binding of its own, and reads nothing where there is none.
#pragma once
#include "common.h"

constant constexpr uint kEntryOffsetBits = 14;  // of an entry: the place in the slab, in units
constant constexpr uint kEntryUnitBits = 14;    // 16 KiB

// The unit that the entry names, null where `words` words from there on are not all in a slab: also
// for an expert that is absent (all ones, the number of no slab).
inline device const uint* slot_at(device const ulong2* slabs,
                                  uint n_slabs,
                                  uint entry,
                                  uint words) {
  const uint slab = entry >> kEntryOffsetBits;
  if (slab >= n_slabs) return nullptr;
  const ulong2 found = slabs[slab];
  const ulong offset = ulong(entry & ((1u << kEntryOffsetBits) - 1u)) << kEntryUnitBits;
  if (offset + 4 * ulong(words) > found.y) return nullptr;
  return (device const uint*)(found.x + offset);
}
