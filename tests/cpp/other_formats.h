// Rows that the table of formats could have: of what kernels and readers do beside MLX's affine
// codes.
#pragma once
#include <cstring>

#include "base/format.h"

namespace moeflux::test {

inline constexpr uint32_t kAllGroups[] = {16, 32, 64, 128};

// Affine codes in groups of 16, too.
inline quant::Format in_any_groups(uint32_t bits) {
  return {.name = "in_any_groups",
          .bits = bits,
          .planes = {{{.name = "weight", .bits = bits},
                      {.name = "scales", .columns = 0, .finite = true},
                      {.name = "biases", .columns = 0, .finite = true}}},
          .groups = kAllGroups};
}

// A zero in the middle, no biases.
inline quant::Format symmetric(uint32_t bits) {
  quant::Format format = in_any_groups(bits);
  format.name = "symmetric";
  format.planes[quant::kSupers] = {};
  format.zero = 1u << (bits - 1);
  return format;
}

// Four bits that stand for eight.
inline constexpr uint8_t kTable[16] = {0,   24,  45,  63,  79,  93,  106, 118,
                                       129, 141, 153, 166, 181, 197, 217, 255};
inline quant::Format by_table() {
  quant::Format format = symmetric(4);
  format.name = "by_table";
  format.table = kTable;
  format.zero = 128;
  return format;
}

// Scales of two levels in groups of 16 or 32, with any codes.
inline quant::Format two_levels(uint32_t bits, quant::Levels levels) {
  quant::Format format = symmetric(bits);
  format.name = "two_levels";
  format.levels = levels;
  const uint32_t numbers = levels.has_minimum ? 2 : 1;
  format.planes[quant::kScales] = {.name = "scales", .bits = numbers * levels.bits, .columns = 0};
  format.planes[quant::kSupers] = {
      .name = "supers", .bits = 16 * numbers, .columns = 256, .finite = true};
  format.dtype = quant::DType::f16;
  if (levels.has_minimum) format.zero = 0;
  return format;
}
inline constexpr quant::Levels kLevels[] = {
    {4, 0, true}, {6, 0, true}, {6, 32, false}, {8, 128, false}};

// Those of by_table in blocks of 32 columns: scales (f16) of the first and second 16, then 16 bytes, of which
// byte j has the codes of column j (low) and j + 16.
inline constexpr uint32_t kBlockBytes = 20;
inline void read_blocks(const std::byte* blocks, uint64_t n,
                        const quant::Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block) {
    const std::byte* from = blocks + block * kBlockBytes;
    std::memcpy(planes[quant::kScales] + 4 * block, from, 4);
    for (uint32_t column = 0; column < 32; column += 2) {
      const auto code = [&](uint32_t i) {
        return (from[4 + i % 16] >> (i < 16 ? 0 : 4)) & std::byte{15};
      };
      planes[quant::kCodes][16 * block + column / 2] = code(column) | code(column + 1) << 4;
    }
  }
}
inline quant::Format in_blocks() {
  static constexpr uint32_t kGroup[] = {16};
  quant::Format format = by_table();
  format.name = "in_blocks";
  format.groups = kGroup;
  format.dtype = quant::DType::f16;
  format.block_columns = 32;
  format.block_bytes = kBlockBytes;
  format.transcode = read_blocks;
  return format;
}

}  // namespace moeflux::test
