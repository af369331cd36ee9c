// Blocks of file formats into planes (Transcoder), a function a format. Included by the table alone.
// Sources: the byte maps of docs/formats.md; held to the gguf package by tests/python/test_formats.py.
#pragma once
#include <cstring>
#include <utility>

#include "base/bit_stream.h"
#include "base/format.h"

namespace moeflux::quant {

// Bytes 0 to 7 of each, in turns. As all of these, what the least machine does at once: compilers
// take others apart.
inline Bytes16 alternate(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// Bit `from` of each byte, and the ones above it, at bit `to`; others come beside them.
inline Bytes16 moved(Bytes16 v, int from, int to) {
  return (Bytes16)(from > to ? (Halves8)v >> (from - to) : (Halves8)v << (to - from));
}

// MXFP4: an exponent, 16 bytes as Q4_0's.
inline void mxfp4(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 17) {
    planes[kScales][block] = from[0];
    const auto low = load<Bytes16>(from + 1);
    pack<4>(low & 15, low >> 4, planes[kCodes] + 16 * block);
  }
}

// NVFP4: four scales without a sign, then for each eight bytes, of which byte j has columns j and
// j + 8.
inline void nvfp4(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 36) {
    const uint32_t scales = load<uint32_t>(from) & 0x7f7f7f7f;
    std::memcpy(planes[kScales] + 4 * block, &scales, sizeof scales);
    for (int half = 0; half < 2; ++half) {
      const auto two = load<Bytes16>(from + 4 + 16 * half);
      const Bytes16 low = two & 15, high = two >> 4;
      pack<4>(__builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22,
                                      23),
              __builtin_shufflevector(low, high, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                      29, 30, 31),
              planes[kCodes] + 32 * block + 16 * half);
    }
  }
}

// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: f16 scale, f16 minimum (of _1), four bytes with bit 4 of each code
// (of Q5), 16 bytes of which byte j has the low bits of columns j and j + 16.
template <int bits, bool has_minimum>
void halves(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  constexpr uint32_t head = has_minimum ? 4 : 2, high = bits == 5 ? 4 : 0, all = head + high + 16;
  each_block<4 * bits>(planes[kCodes], n, [=](uint64_t block, std::byte* to) {
    const std::byte* p = from + all * block;
    std::memcpy(planes[kScales] + 2 * block, p, 2);
    if constexpr (has_minimum) std::memcpy(planes[kSupers] + 2 * block, p + 2, 2);
    const auto low = load<Bytes16>(p + head + high);
    Bytes16 codes[] = {low & 15, low >> 4};
    if constexpr (bits == 5) {
      // Each byte eight times, by the machine's own interleaving.
      const auto four = (Bytes16)(Words4){load<uint32_t>(p + head)};
      const auto two = (Halves8)alternate(four, four);
      const auto fours = (Words4)__builtin_shufflevector(two, two, 0, 8, 1, 9, 2, 10, 3, 11);
      const Words4 eights[] = {__builtin_shufflevector(fours, fours, 0, 4, 1, 5),
                               __builtin_shufflevector(fours, fours, 2, 6, 3, 7)};
      constexpr Bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
      for (int i = 0; i < 2; ++i) codes[i] |= (Bytes16)(((Bytes16)eights[i] & bit) == bit) & 16;
    }
    pack<bits>(codes[0], codes[1], to);
  });
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

// ---- blocks of 256 columns

// codes(j, i): those of columns 32 j + 16 i and on. Written out: bytes have no shift by a variable.
template <int bits, class F>
void pack_256(std::byte* to, const F& codes) {
  [&]<int... j>(std::integer_sequence<int, j...>) {
    (pack<bits>(codes(j, 0), codes(j, 1), to + 4 * bits * j), ...);
  }(std::make_integer_sequence<int, 8>());
}
// Four bits of column 64 n + i, i < 32, are the low ones of byte 32 n + i; of 64 n + 32 + i the high.
inline Bytes16 nibbles_of(const std::byte* from, int j, int i) {
  return moved(load<Bytes16>(from + 32 * (j / 2) + 16 * i), 4 * (j % 2), 0) & 15;
}
// Two bits of column 128 n + 32 j + i are bits 2 j of byte 32 n + i. At bit `to`.
inline Bytes16 pairs_of(const std::byte* from, int j, int i, int to) {
  const auto mask =
      static_cast<uint8_t>(3 << to);  // named, or g++ 12 with a check of shifts refuses it
  return moved(load<Bytes16>(from + 32 * (j / 4) + 16 * i), 2 * (j % 4), to) & mask;
}
// A bit of column 32 j + i is bit j of byte i. At bit `to`.
inline Bytes16 bits_of(const std::byte* from, int j, int i, int to) {
  const auto mask = static_cast<uint8_t>(1 << to);
  return moved(load<Bytes16>(from + 16 * i), j, to) & mask;
}

// An f16 scale and an f16 minimum, which is subtracted: of the other sign it is added.
inline void supers_with_minimum(const std::byte* from, std::byte* to) {
  const uint32_t pair = load<uint32_t>(from) ^ 0x80000000;
  std::memcpy(to, &pair, sizeof pair);
}
// 16 codes of 6 bits, a byte each, into 12 bytes.
inline void pack_scales(Bytes16 codes, std::byte* to) {
  const Words2 eights = join<6>(codes);
  const uint64_t low = eights[0] | eights[1] << 48;
  const auto high = static_cast<uint32_t>(eights[1] >> 16);
  std::memcpy(to, &low, 8);
  std::memcpy(to + 8, &high, 4);
}
// Three words of 12 bytes: scales 0..3 and two bits of scales 4..7; minima alike; four bits of each.
// Into pairs of a scale and a minimum.
inline void scales_with_minima(const std::byte* from, std::byte* to) {
  const auto a = load<uint32_t>(from), b = load<uint32_t>(from + 4), c = load<uint32_t>(from + 8);
  constexpr uint32_t low = 0x0f0f0f0f, six = 0x3f3f3f3f, high = 0x30303030;
  const auto scales = (Bytes16)(Words4){a & six, (c & low) | (a >> 2 & high)},
             minima = (Bytes16)(Words4){b & six, (c >> 4 & low) | (b >> 2 & high)};
  pack_scales(alternate(scales, minima), to);
}

// Q2_K: 16 bytes of a scale (low) and a minimum, 64 of codes, f16 scale and minimum.
inline void q2_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 84) {
    pack_256<2>(planes[kCodes] + 64 * block,
                [=](int j, int i) { return pairs_of(from + 16, j, i, 0); });
    std::memcpy(planes[kScales] + 16 * block, from, 16);
    supers_with_minimum(from + 80, planes[kSupers] + 4 * block);
  }
}

// Q3_K: 32 bytes of bit 2 of codes, 64 of the others; 12 bytes of scales: four bits of 0..7 (low)
// and 8..15, then two of 4 j + i in byte i; f16 scale.
inline void q3_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  each_block<96>(planes[kCodes], n, [=](uint64_t block, std::byte* to) {
    const std::byte* p = from + 110 * block;
    pack_256<3>(to, [=](int j, int i) { return pairs_of(p + 32, j, i, 0) | bits_of(p, j, i, 2); });
    const auto low = load<uint64_t>(p + 96);
    const uint64_t high = load<uint32_t>(p + 104);
    constexpr uint64_t four = 0x0f0f0f0f0f0f0f0f, two = 0x0303030303030303;
    pack_scales((Bytes16)(Words2){(low & four) | ((high | high >> 2 << 32) & two) << 4,
                                  (low >> 4 & four) | ((high >> 4 | high >> 6 << 32) & two) << 4},
                planes[kScales] + 12 * block);
    std::memcpy(planes[kSupers] + 2 * block, p + 108, 2);
  });
}

// Q4_K: f16 scale and minimum, 12 bytes of scales and minima, 128 of codes.
inline void q4_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 144) {
    pack_256<4>(planes[kCodes] + 128 * block,
                [=](int j, int i) { return nibbles_of(from + 16, j, i); });
    scales_with_minima(from + 4, planes[kScales] + 12 * block);
    supers_with_minimum(from, planes[kSupers] + 4 * block);
  }
}

// Q5_K: as Q4_K, 32 bytes of bit 4 of codes before the others.
inline void q5_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  each_block<160>(planes[kCodes], n, [=](uint64_t block, std::byte* to) {
    const std::byte* p = from + 176 * block;
    pack_256<5>(to,
                [=](int j, int i) { return nibbles_of(p + 48, j, i) | bits_of(p + 16, j, i, 4); });
    scales_with_minima(p + 4, planes[kScales] + 12 * block);
    supers_with_minimum(p, planes[kSupers] + 4 * block);
  });
}

// Q6_K: 128 bytes of four bits of codes, of 128 n + 32 j + i in byte 64 n + 32 (j % 2) + i; 64 of
// the other two; 16 signed scales; f16 scale.
inline void q6_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  each_block<192>(planes[kCodes], n, [=](uint64_t block, std::byte* to) {
    const std::byte* p = from + 210 * block;
    pack_256<6>(to, [=](int j, int i) {
      const auto v = load<Bytes16>(p + 64 * (j / 4) + 32 * (j % 2) + 16 * i);
      return (moved(v, j % 4 < 2 ? 0 : 4, 0) & 15) | pairs_of(p + 128, j, i, 4);
    });
    const Bytes16 scales = load<Bytes16>(p + 192) ^ 128;
    std::memcpy(planes[kScales] + 16 * block, &scales, sizeof scales);
    std::memcpy(planes[kSupers] + 2 * block, p + 208, 2);
  });
}

// IQ4_XS: f16 scale; two bits and four bits of each of 8 scales; 16 bytes as Q4_0's for each.
inline void iq4_xs(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 136) {
    std::memcpy(planes[kSupers] + 2 * block, from, 2);
    const auto high = load<uint16_t>(from + 2);
    const auto low = load<uint32_t>(from + 4);
    uint64_t scales = 0;
    for (int i = 0; i < 8; ++i)
      scales |= uint64_t((low >> 4 * i & 15) | (high >> 2 * i & 3) << 4) << 6 * i;
    std::memcpy(planes[kScales] + 6 * block, &scales, 6);
    pack_256<4>(planes[kCodes] + 128 * block, [=](int j, int i) {
      const auto v = load<Bytes16>(from + 8 + 16 * j);
      return i ? v >> 4 : v & 15;
    });
  }
}

}  // namespace moeflux::quant
