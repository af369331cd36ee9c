// Integer sums of a group by AMX: tiles of 16 weight rows and 16 tokens. Same interface as
// block_sums of gemm.inc, whose exact sums these equal; only the join of the digits is left to the
// reader of `sums`.
#pragma once
#include <immintrin.h>

#include "ops/cpu/simd/base.h"

namespace moeflux::ops::cpu {
namespace {

// GCC 12's tile intrinsics do not say how much memory they read: stores before them must not be
// dropped or moved past them.
ALWAYS_INLINE void keep_stores(const void* at) {
  asm volatile("" : : "r"(at) : "memory");
}

constexpr int kWeightTile = 6, kTokenTile = 7;  // 0 to 5: sums (block, digit)

// Tile shapes for groups of `group` columns, for as long as it lives. The state is a thread's.
struct TileConfig {
  explicit TileConfig(uint32_t group) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    const uint32_t columns = group < 64 ? group : 64;
    for (int i = 0; i <= 7; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = 16;
    }
    config.row_bytes[kWeightTile] = static_cast<uint16_t>(columns);
    config.rows[kTokenTile] = static_cast<uint8_t>(columns / 4);
    keep_stores(&config);
    _tile_loadconfig(&config);
  }
  ~TileConfig() { _tile_release(); }
};

// The intrinsics take literals only.
#define EACH_SUM_TILE(DO) \
  if constexpr (i == 0) { \
    DO(0)                 \
  }                       \
  if constexpr (i == 1) { \
    DO(1)                 \
  }                       \
  if constexpr (i == 2) { \
    DO(2)                 \
  }                       \
  if constexpr (i == 3) { \
    DO(3)                 \
  }                       \
  if constexpr (i == 4) { \
    DO(4)                 \
  }                       \
  if constexpr (i == 5) { \
    DO(5)                 \
  }
#define ZERO(tile) _tile_zero(tile);
#define MULTIPLY(tile) _tile_dpbusd(tile, 6, 7);
#define STORE(tile) _tile_stored(tile, to, stride);

// sums (blocks, 16 rows, digits, 16 tokens); x[b] (digits, group / 4, 16 tokens, 4).
template <int digits, int blocks>
ALWAYS_INLINE void tile_sums(const uint8_t* codes, uint32_t group, const int8_t* const* x,
                             int32_t* sums) {
  keep_stores(codes);
  const uint32_t columns = group < 64 ? group : 64;
  repeat<blocks * digits>([](auto i) ALWAYS_INLINE_LAMBDA { EACH_SUM_TILE(ZERO) });
  for (uint32_t k = 0; k < group; k += columns) {
    _tile_loadd(6, codes + k, group);
    repeat<blocks * digits>([&](auto i) ALWAYS_INLINE_LAMBDA {
      constexpr int b = i / digits, d = i % digits;
      _tile_loadd(7, x[b] + (d * group + k) * 16, 64);
      EACH_SUM_TILE(MULTIPLY)
    });
  }
  repeat<blocks * digits>([&](auto i) ALWAYS_INLINE_LAMBDA {
    constexpr int b = i / digits, d = i % digits;
    int32_t* to = sums + (b * 16 * digits + d) * 16;
    constexpr long stride = digits * 16 * sizeof(int32_t);
    EACH_SUM_TILE(STORE)
  });
}

#undef EACH_SUM_TILE
#undef ZERO
#undef MULTIPLY
#undef STORE

}  // namespace
}  // namespace moeflux::ops::cpu
