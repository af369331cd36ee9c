// Where the experts of a layer lie in the files, and where in a slot.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/format.h"
#include "base/slab.h"

namespace moeflux::store {

using base::kSlotAlignment;
inline constexpr uint64_t kPartAlignment = 64;  // a cache line, and an AVX-512 register

// One of the (up to nine) byte ranges that make an expert: the same place in every slot.
struct Part {
  uint64_t nbytes = 0;           // in the file
  uint64_t slot_offset = 0;      // of kPartAlignment, or as place_parts has it
  std::vector<uint32_t> file;    // (n_experts) index into the store's files
  std::vector<uint64_t> offset;  // (n_experts) in that file
  // A matrix in blocks, of which a reader makes planes, each at a multiple of kPartAlignment from
  // slot_offset on; none: the slot holds what the file does.
  std::optional<quant::Shape> blocks = {};

  uint64_t unit_bytes() const { return blocks ? blocks->format->block_bytes : 1; }
  uint64_t slot_bytes() const {
    return blocks ? quant::place_planes(*blocks, kPartAlignment).back() : nbytes;
  }
};

struct LayerExperts {
  uint32_t n_experts = 0;
  std::vector<Part> parts;
  uint64_t slot_bytes() const {
    uint64_t end = 0;
    for (const Part& part : parts) end = std::max(end, part.slot_offset + part.slot_bytes());
    return base::round_up(end, kSlotAlignment);
  }
};

}  // namespace moeflux::store
