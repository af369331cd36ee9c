// Blocks of file formats into planes (Transcoder), a function a format. Included by the table alone.
// Sources: the byte maps of docs/formats.md; held to the gguf package by tests/python/test_formats.py.
#pragma once
#include <cstring>

#include "base/format.h"

namespace moeflux::quant {

// What every machine has registers for. Codes stay in them: bytes that are stored one by one and
// loaded as a word wait for the stores.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Halves8 = uint16_t __attribute__((vector_size(16)));

// 32 codes, a byte each, into 4 * bits bytes of a bit stream.
template <int bits>
void pack(Bytes16 first, Bytes16 second, std::byte* to) {
  if constexpr (bits == 4) {
    const auto pairs = [](Bytes16 v) { return (Bytes16)((Halves8)v | (Halves8)v >> 4); };
    const Bytes16 packed = __builtin_shufflevector(pairs(first), pairs(second), 0, 2, 4, 6, 8, 10,
                                                   12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    std::memcpy(to, &packed, sizeof packed);
  } else {
    constexpr uint64_t mask = (1u << bits) - 1, one = mask * 0x0001000100010001,
                       two = (mask << bits | mask) * 0x0000000100000001,
                       four = (1ull << 4 * bits) - 1;
    const Bytes16 codes[] = {first, second};
    uint64_t words[4];
    std::memcpy(words, codes, sizeof words);
    for (int i = 0; i < 4; ++i) {  // neighbours move together: two, four, eight codes
      uint64_t w = words[i];
      w = (w & one) | (w >> (8 - bits) & one << bits);
      w = (w & two) | (w >> (16 - 2 * bits) & two << 2 * bits);
      w = (w & four) | (w >> (32 - 4 * bits) & four << 4 * bits);
      std::memcpy(to + i * bits, &w, bits);
    }
  }
}

// Q4_0, Q4_1, Q5_0, Q5_1: f16 scale, f16 minimum (of _1), four bytes with bit 4 of each code (of
// Q5), 16 bytes of which byte j has the low bits of columns j and j + 16.
template <int bits, bool has_minimum>
void halves(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  constexpr uint32_t head = has_minimum ? 4 : 2, high = bits == 5 ? 4 : 0;
  for (uint64_t block = 0; block < n; ++block, from += head + high + 16) {
    std::memcpy(planes[kScales] + 2 * block, from, 2);
    if constexpr (has_minimum) std::memcpy(planes[kSupers] + 2 * block, from + 2, 2);
    Bytes16 low;
    std::memcpy(&low, from + head + high, sizeof low);
    Bytes16 codes[] = {low & 15, low >> 4};
    if constexpr (bits == 5)
      for (int i = 0; i < 2; ++i) {
        constexpr Bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        const auto x = uint8_t(from[head + 2 * i]), y = uint8_t(from[head + 2 * i + 1]);
        const Bytes16 bits_of = {x, x, x, x, x, x, x, x, y, y, y, y, y, y, y, y};
        codes[i] |= (Bytes16)((bits_of & bit) == bit) & 16;
      }
    pack<bits>(codes[0], codes[1], planes[kCodes] + 4 * bits * block);
  }
}

// Q8_0: f16 scale, 32 signed bytes.
inline void signed_bytes(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 34) {
    std::memcpy(planes[kScales] + 2 * block, from, 2);
    Bytes16 codes[2];
    std::memcpy(codes, from + 2, sizeof codes);
    for (Bytes16& code : codes) code ^= 128;
    std::memcpy(planes[kCodes] + 32 * block, codes, sizeof codes);
  }
}

}  // namespace moeflux::quant
