// How attention is spread over a device: which positions a threadgroup takes, and what part of the
// work goes into one dispatch. Pure. Splits depend on a session's rows and positions and on the
// heads alone, so that neither neighbours nor time change a bit.
#pragma once
#include <algorithm>
#include <cstdint>

#include "ops/rows.h"

namespace moeflux::ops::gpu {

struct AttentionSplits {
  uint32_t heads = 0, group = 1, head_dim = 0, window = 0;  // queries; of a key head
  uint32_t value_dim = head_dim;                            // channels of values that are summed

  static constexpr uint32_t kLeast = 32;     // positions of a split of one token
  static constexpr uint32_t kMany = 128;     // splits, beyond which they become longer
  static constexpr uint32_t kRows = 64;      // (token, query of a key head) of a tile of a prompt
  static constexpr uint32_t kSlice = 128;    // channels of values of a tile
  static constexpr uint32_t kGroups = 256;   // threadgroups that fill a device
  static constexpr uint32_t kBlock = 64;     // positions that a tile takes at a time
  static constexpr uint32_t kLongest = 256;  // positions of one token's split, of a prompt's least
  static_assert(kLongest == kCacheExtent, "a split lies in one extent");

  static constexpr uint64_t quotient(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

  struct One {  // token over positions [from, len), at the multiples of `split`
    uint32_t from, split, splits;
  };
  One one(uint32_t len) const {
    const uint32_t from = window && len > window ? len - window : 0;
    uint32_t split = kLeast;
    while (split < kLongest && quotient(len - from, split) > kMany) split *= 2;
    return {from, split, static_cast<uint32_t>(quotient(len, split)) - from / split};
  }

  struct Many {  // rows, over the positions up to their own, at the multiples of `split`
    uint32_t tiles, split, splits;
    uint32_t from;  // where the first split begins: those before it are hidden from all rows
  };
  Many many(uint32_t n, uint32_t position) const {
    const uint64_t tiles = quotient(uint64_t(n) * group, kRows), end = uint64_t(position) + n;
    const uint64_t splits = std::clamp<uint64_t>(kGroups / (tiles * (heads / group) * slices()), 1,
                                                 quotient(end, kLongest));
    const uint64_t split = quotient(quotient(end, splits), kLongest) * kLongest;
    const uint64_t from = seen_from(position, 0) / split * split;
    return {static_cast<uint32_t>(tiles), static_cast<uint32_t>(split),
            static_cast<uint32_t>(quotient(end - from, split)), static_cast<uint32_t>(from)};
  }
  // The first position that any row of tile `tile` or one behind it sees, at a block's begin.
  uint32_t seen_from(uint32_t position, uint32_t tile) const {
    const uint64_t seen = uint64_t(position) + uint64_t(tile) * kRows / group + 1;
    return window && seen > window ? static_cast<uint32_t>((seen - window) / kBlock * kBlock) : 0;
  }
  // Behind the last position that a row of a tile before `tile` sees, of `end`.
  uint32_t seen_to(uint32_t position, uint32_t tile, uint32_t end) const {
    const uint64_t last = uint64_t(position) + (uint64_t(tile) * kRows - 1) / group + 1;
    return static_cast<uint32_t>(std::min<uint64_t>(last, end));
  }
  // Positions that the rows of one tile walk, of `keys` that there are.
  uint64_t walked(uint64_t keys) const {
    return window ? std::min<uint64_t>(keys, uint64_t(window) + kRows / group + 2 * kBlock) : keys;
  }
  uint64_t macs(uint64_t tiles, uint64_t keys) const {
    // Every slice of values has scores of its own.
    const uint64_t of_row = uint64_t(quotient(head_dim, kSlice) + 1) * slices() * kSlice;
    return tiles * kRows * (heads / group) * of_row * walked(keys);
  }
  uint32_t slices() const { return (value_dim + kSlice - 1) / kSlice; }

  // What of many(), of one split, goes into a dispatch of `most` multiply-adds: so many tiles and
  // positions, the least that there can be where that is more. With a window the positions that a
  // tile walks are few, and tiles alone are parted.
  struct Part {
    uint32_t tiles, keys;
  };
  Part part(const Many& many, uint64_t most) const {
    if (window && macs(1, many.split) <= most)
      return {static_cast<uint32_t>(std::min<uint64_t>(most / macs(1, many.split), many.tiles)),
              many.split};
    const uint64_t of_tile = macs(1, 1);
    const uint64_t keys = most / (of_tile * many.tiles) / kLongest * kLongest;
    if (keys > 0) return {many.tiles, static_cast<uint32_t>(std::min<uint64_t>(keys, many.split))};
    return {static_cast<uint32_t>(std::max<uint64_t>(most / (of_tile * kLongest), 1)), kLongest};
  }

  // The same of many() of several splits: so many tiles, of so many splits. One of each at least.
  struct OfSplits {
    uint32_t tiles, splits;
  };
  OfSplits part_of_splits(const Many& many, uint64_t most) const {
    const uint64_t of_split = macs(1, many.split);
    const uint64_t tiles = std::clamp<uint64_t>(most / (of_split * many.splits), 1, many.tiles);
    return {static_cast<uint32_t>(tiles),
            static_cast<uint32_t>(std::clamp<uint64_t>(most / (of_split * tiles), 1, many.splits))};
  }

  // Floats of the sums that wait for others, for up to n rows up to `context`, and of what is known
  // of them.
  uint64_t most_partial(uint32_t n, uint32_t context) const {
    return most_sums(n, context) * value_dim;
  }
  uint64_t most_stats(uint32_t n, uint32_t context) const {
    return std::max<uint64_t>(most_sums(n, context), n > 1 ? uint64_t(n) * heads : 0) * 2 *
           slices();
  }

 private:
  uint64_t most_sums(uint32_t n, uint32_t context) const {
    const uint64_t longest = quotient(context, kLongest);
    const uint64_t splits = std::max(std::min<uint64_t>(quotient(context, kLeast), kMany), longest);
    const uint64_t of_one = splits > 1 ? (splits + 1) * heads : heads;
    if (n == 1) return of_one;
    // Rows of tiles that are full, and of one more that is not.
    const uint64_t groups = uint64_t(kGroups) * kRows;
    return std::max(of_one, std::min(longest > 1 ? longest * n * heads : 0, groups));
  }
};

}  // namespace moeflux::ops::gpu
