// Codes of 2 to 8 bits, a byte each, into MLX's bit stream: a little-endian one, the first code in
// the lowest bits.
#pragma once
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace moeflux::quant {

// What every machine has registers for. Codes stay in them: bytes that are stored one by one and
// loaded as a word wait for the stores.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Halves8 = uint16_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));
using Words2 = uint64_t __attribute__((vector_size(16)));

template <class V>
V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Bytes16 even_bytes(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

// 16 codes of 3, 5 or 6 bits, a byte each, into two words of eight; of 3, rubbish above them.
template <int bits>
Words2 join(Bytes16 codes) {
  constexpr uint16_t code = (1 << bits) - 1;
  const auto bytes = (Halves8)codes;  // neighbours move together: two, four, eight codes
  const Halves8 two = (bytes & code) | (bytes >> (8 - bits) & static_cast<uint16_t>(code << bits));
  constexpr uint64_t low = (1ull << 4 * bits) - 1;
#ifdef __SSE2__
  constexpr short one = 1, up = 1 << 2 * bits;
  const auto four =
      (Words2)_mm_madd_epi16((__m128i)two, _mm_setr_epi16(one, up, one, up, one, up, one, up));
#else
  constexpr uint32_t first = (1u << 2 * bits) - 1;
  const auto pairs = (Words4)two;
  const auto four = (Words2)((pairs & first) | (pairs >> 16 << 2 * bits));
#endif
  const Words2 rest = four >> (32 - 4 * bits);
  if constexpr (bits == 3) return four | rest;
  return (four & low) | (rest & low << 4 * bits);
}

constexpr int kOver = 8;  // bytes that pack() may write behind what it is to

// 32 codes, a byte each, into 4 * bits bytes of a bit stream; of 3, 5 and 6 bits kOver more.
template <int bits>
void pack(Bytes16 first, Bytes16 second, std::byte* to) {
  const auto pairs = [](Bytes16 v) { return (Bytes16)((Halves8)v | (Halves8)v >> (8 - bits)); };
  if constexpr (bits == 8) {
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + sizeof first, &second, sizeof second);
  } else if constexpr (bits == 4) {
    const Bytes16 packed = even_bytes(pairs(first), pairs(second));
    std::memcpy(to, &packed, sizeof packed);
  } else if constexpr (bits == 2) {
    const Halves8 twos = (Halves8)even_bytes(pairs(first), pairs(second));
    const Bytes16 fours = (Bytes16)(twos | twos >> 4), packed = even_bytes(fours, fours);
    std::memcpy(to, &packed, 8);
  } else {
    const Words2 words[] = {join<bits>(first), join<bits>(second)};
    for (int i = 0; i < 4; ++i) {
      const uint64_t eight = words[i / 2][i % 2];  // the next ones take the place of what is above
      std::memcpy(to + bits * i, &eight, 8);
    }
  }
}

// write(to) of each of n blocks, of `size` bytes, which follow each other from `to` on. What it may
// write behind them goes into the next block, which is written later, or nowhere.
template <uint32_t size, class F>
void each_block(std::byte* to, uint64_t n, const F& write) {
  for (uint64_t block = 0; block + 1 < n; ++block) write(block, to + size * block);
  if (n == 0) return;
  std::byte last[size + kOver];
  write(n - 1, last);
  std::memcpy(to + size * (n - 1), last, size);
}

}  // namespace moeflux::quant
