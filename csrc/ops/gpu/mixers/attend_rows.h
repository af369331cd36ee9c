// Queries of rows against a KV cache in extents, of rows (positions, kv_dim): for mixers, which bring
// keys and values into the cache. Which positions a threadgroup takes and in which order sums are
// merged depends on the number of positions, and of rows of the session, alone.
#pragma once
#include "ops/gpu/mixers/attention_splits.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

inline constexpr uint32_t kWidestHead = 640;  // numbers, of attention_wide's kernels

struct AttendHeads {
  uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  uint32_t value_dim = 0;        // channels of values that are summed, from the first on
  bool values_are_keys = false;  // the first channels of keys, at least as decode reads them
  uint32_t window = 0;
  const float* sinks = nullptr;  // (n_heads), or none
  float scale = 1;
};

struct AttendRows {
  AttendRows(GpuOps& ops, Bump& bump, const AttendHeads& of, uint32_t n, uint32_t context);
  GpuOps& ops;
  Recorder& recorder;
  const AttendHeads of;
  uint32_t n, heads, kv_dim, group;  // rows; numbers of a row of q, of k; queries of a key head
  AttentionSplits splits;
  bool is_f32;              // the cache
  uint64_t position_bytes;  // of keys, and of values
  float *q, *mixed;         // (n, n_heads, head_dim), (n, n_heads, value_dim)
  float *partial, *stats;   // of one segment

  device::Argument sinks() const { return recorder.in(of.sinks, of.n_heads); }
  Recorder::Kernel kernel(std::string_view name) const { return {name, "HeadDim", of.head_dim}; }
  // Rows of a cache, `n` from `row` of an extent on, for a kernel that writes them.
  device::Argument cached(std::byte* extent, uint32_t row, uint32_t n) const {
    return recorder.out(extent + row * position_bytes, n * position_bytes);
  }
  // f(extent, its first row, n, rows of the segment before) for each extent that a segment fills.
  template <class F>
  void each_extent(const Segment& segment, const F& f) const {
    for (uint32_t done = 0; done < segment.n;) {
      const uint32_t position = segment.position + done, at = position % kCacheExtent;
      const uint32_t count = std::min(segment.n - done, kCacheExtent - at);
      f(segment.cache[position / kCacheExtent], at, count, done);
      done += count;
    }
  }

  // Of one row, whose key and value are in the cache; its query is turned.
  void attend_wide(const Segment& segment) const;
  // The same of any number of rows. A dispatch has a part of the tiles, or of the positions: no bit
  // depends on how large it is.
  void attend(const Segment& segment) const;
  // The splits of one token, or of a prompt of few rows, into the rows of `mixed`.
  void merge(uint32_t n, uint32_t splits, device::Argument mixed) const;
  device::Argument mixed_rows(const Segment& segment) const {
    const uint64_t width = uint64_t(of.n_heads) * of.value_dim;
    return recorder.out(mixed + segment.row * width, segment.n * width);
  }
};

// The extents of a segment's first `len` positions, as kernels find them.
struct Extents {
  Extents(const AttendRows& rows, const Segment& segment, uint32_t len);
  device::Argument blocks;
  uint32_t count, last;
  uint32_t keys_at = 0, values_at = 0, last_keys_at = 0, last_values_at = 0;
};

}  // namespace moeflux::ops::gpu
