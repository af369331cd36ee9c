// Where the experts of a layer lie in the files, and where in a slot.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/arena.h"

namespace moeflux::store {

inline constexpr uint64_t kSlotAlignment = 16384;  // a slot is whole pages on every machine
inline constexpr uint64_t kPartAlignment = 64;     // a cache line, and an AVX-512 register

// One of the (up to nine) byte ranges that make an expert: the same place in every slot.
struct Part {
  uint64_t nbytes = 0;
  uint64_t slot_offset = 0;      // of kPartAlignment, or as place_parts has it
  std::vector<uint32_t> file;    // (n_experts) index into the store's files
  std::vector<uint64_t> offset;  // (n_experts) in that file
};

struct LayerExperts {
  uint32_t n_experts = 0;
  std::vector<Part> parts;
  uint64_t slot_bytes() const {
    uint64_t end = 0;
    for (const Part& part : parts) end = std::max(end, part.slot_offset + part.nbytes);
    return base::round_up(end, kSlotAlignment);
  }
};

}  // namespace moeflux::store
