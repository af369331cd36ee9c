// What stages compute over: rows of activations, and what sessions keep between them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/arena.h"
#include "base/format.h"

namespace moeflux::ops {

namespace cpu {
class CpuOps;
}
namespace gpu {
class GpuOps;
}

// The KV cache of a session grows by extents of so many positions, in blocks of positions that an
// implementation may lay out together. Sessions and snapshots take whole blocks.
inline constexpr uint32_t kCacheBlock = 16, kCacheExtent = 256;

struct CacheShape {  // of a position of a layer's keys, and of its values; no heads: it has none
  uint32_t n_heads = 0, head_dim = 0;
  uint32_t window = 0;  // positions that a row sees, its own among them; 0: all before it
};

// Type of a cache's numbers. int8: each key, and each value, of a head has a scale of its own.
enum class CacheType : uint8_t { f32, bf16, int8 };

struct CacheForm {  // how an implementation keeps a layer's cache
  CacheType type = CacheType::f32;
  uint64_t block_bytes = 0;  // of kCacheBlock positions of keys, and of as many values
};

struct CacheExtent {  // where an extent of a layer lies: its blocks, one after the other
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
};

// Rows (n, width) that stages read. An implementation may keep what it makes of them for the next
// stage that reads rows of the same id; rows of another id, or of none, end that.
struct Rows {
  const float* data = nullptr;
  uint32_t n = 0;
  uint64_t id = 0;  // which the caller gives to no other rows; 0: a single stage reads them
};

// Consecutive rows of one session, at positions position, position + 1, ...
struct Segment {
  uint32_t row = 0, n = 0, position = 0;
  // Position p lies in cache[p / kCacheExtent], null where no row sees it. What lies before a window
  // may be written over by rows behind these, so nothing that a row does not see counts.
  const CacheExtent* cache = nullptr;
  // The blocks that the extents lie in, keys' and values' of each: Arena::list_blocks.
  std::shared_ptr<const base::BlockList> blocks;
  const float* state_in = nullptr;  // state_floats() of the mixer
  float* state_out = nullptr;       // may be state_in
};
using Segments = std::span<const Segment>;

}  // namespace moeflux::ops
