// A session's KV cache for tests of ops alone: extents where they come to lie, and their table.
#pragma once
#include <algorithm>
#include <vector>

#include "ops/ops.h"

// `allocate(nbytes)` gives memory that compute can read and write.
template <class Allocate>
std::vector<moeflux::ops::CacheExtent> cache_table(const moeflux::ops::CacheForm& form,
                                                   uint32_t positions, Allocate allocate) {
  std::vector<moeflux::ops::CacheExtent> table;
  using namespace moeflux::ops;
  for (uint32_t begin = 0; begin < positions; begin += kCacheExtent) {
    const uint64_t n_blocks = (std::min(kCacheExtent, positions - begin) - 1) / kCacheBlock + 1;
    std::byte* keys = allocate(n_blocks * form.block_bytes);
    table.push_back({keys, allocate(n_blocks * form.block_bytes)});
  }
  return table;
}
