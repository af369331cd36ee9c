// What the attention kernels are asked for, and the shape of a query's running state.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/ops.h"

namespace moeflux::ops::cpu {

// Numbers of a head and position in the CPU's cache: whole vectors.
constexpr uint32_t cache_width(uint32_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}

constexpr uint64_t cache_number_bytes(CacheType type) {
  return type == CacheType::f32 ? 4 : type == CacheType::bf16 ? 2 : 1;
}
// A key head's block of keys, or of values, without the scales (16 floats) behind it.
constexpr uint64_t cache_codes_bytes(CacheType type, uint32_t head_dim) {
  return uint64_t(kCacheBlock) * cache_width(head_dim) * cache_number_bytes(type);
}
constexpr uint64_t cache_head_bytes(CacheType type, uint32_t head_dim) {
  return cache_codes_bytes(type, head_dim) +
         (type == CacheType::int8 ? kCacheBlock * sizeof(float) : 0);
}

// Positions that are scored together: their scores of a tile of queries stay in the L2, and a
// merge costs 1/256 of what it merges.
inline constexpr uint32_t kSpan = 256;
static_assert(kSpan % kCacheBlock == 0 && kCacheExtent % kSpan == 0);
inline constexpr uint32_t kMaxValueQueries = 4;  // of attention.inc's tiles

// Largest score, sum of exponentials, padding, unscaled output (cache_width). Empty: (-inf, 0, 0).
constexpr uint32_t attend_state_floats(uint32_t dim) {
  return 16 + cache_width(dim);
}
constexpr uint64_t attend_scratch_floats(uint32_t dim, uint32_t n_queries) {
  return uint64_t(n_queries) * kSpan + kMaxValueQueries * cache_width(dim) +
         attend_state_floats(dim);
}

// Rows of a run whose queries of one key head are taken together: about 64 queries share what is
// read from the cache.
constexpr uint32_t attend_tile_rows(uint32_t group) {
  return group >= 64 ? 1 : 64 / group;
}

// Queries that share a key head, over one span of its cached positions.
struct AttendSpan {
  CacheType type;
  const std::byte* keys;  // of the key head, from the span's first block on
  const std::byte* values;
  uint64_t block_bytes;  // from one block of 16 positions to the next
  uint32_t dim;
  float scale;
  uint32_t n;                   // queries
  const float* const* queries;  // (n) of (dim)
  const uint32_t* begins;       // (n) the first position of the span that each sees
  const uint32_t* lens;         // (n) where what it sees ends, up to kSpan; 0: it sees none
  float* const* states;         // (n) merged into
  float* scores;                // (n, kSpan)
  float* scratch;               // kMaxValueQueries * cache_width + attend_state_floats
};

}  // namespace moeflux::ops::cpu
