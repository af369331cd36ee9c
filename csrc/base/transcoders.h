// Blocks of file formats into planes (Transcoder), a function a format. Included by the table alone.
// Sources: the byte maps of docs/formats.md; held to the gguf package by tests/python/test_formats.py.
#pragma once
#include <cstring>
#include <utility>

#include "base/format.h"

namespace moeflux::quant {

// What every machine has registers for. Codes stay in them: bytes that are stored one by one and
// loaded as a word wait for the stores.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Halves8 = uint16_t __attribute__((vector_size(16)));
using Words2 = uint64_t __attribute__((vector_size(16)));

template <class V>
V load(const std::byte* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Bytes16 even_bytes(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

// 32 codes, a byte each, into 4 * bits bytes of a bit stream.
template <int bits>
void pack(Bytes16 first, Bytes16 second, std::byte* to) {
  const auto pairs = [](Bytes16 v) { return (Bytes16)((Halves8)v | (Halves8)v >> (8 - bits)); };
  if constexpr (bits == 4) {
    const Bytes16 packed = even_bytes(pairs(first), pairs(second));
    std::memcpy(to, &packed, sizeof packed);
  } else if constexpr (bits == 2) {
    const Halves8 twos = (Halves8)even_bytes(pairs(first), pairs(second));
    const Bytes16 fours = (Bytes16)(twos | twos >> 4), packed = even_bytes(fours, fours);
    std::memcpy(to, &packed, 8);
  } else {
    constexpr uint64_t mask = (1u << bits) - 1, one = mask * 0x0001000100010001,
                       two = (mask << bits | mask) * 0x0000000100000001,
                       four = (1ull << 4 * bits) - 1;
    const auto join = [](Bytes16 codes) {  // neighbours move together: two, four, eight codes
      auto w = (Words2)codes;
      w = (w & one) | (w >> (8 - bits) & one << bits);
      w = (w & two) | (w >> (16 - 2 * bits) & two << 2 * bits);
      return (w & four) | (w >> (32 - 4 * bits) & four << 4 * bits);
    };
    const Words2 w = join(first), v = join(second);  // eight codes each
    const auto write = [to](uint64_t word, int at, int n) { std::memcpy(to + at, &word, n); };
    if constexpr (bits == 3) {
      write(w[0] | w[1] << 24 | v[0] << 48, 0, 8);
      write(v[0] >> 16 | v[1] << 8, 8, 4);
    } else if constexpr (bits == 5) {
      write(w[0] | w[1] << 40, 0, 8);
      write(w[1] >> 24 | v[0] << 16 | v[1] << 56, 8, 8);
      write(v[1] >> 8, 16, 4);
    } else {
      write(w[0] | w[1] << 48, 0, 8);
      write(w[1] >> 16 | v[0] << 32, 8, 8);
      write(v[0] >> 32 | v[1] << 16, 16, 8);
    }
  }
}

// MXFP4: an exponent, 16 bytes as Q4_0's.
inline void mxfp4(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 17) {
    planes[kScales][block] = from[0];
    const auto low = load<Bytes16>(from + 1);
    pack<4>(low & 15, low >> 4, planes[kCodes] + 16 * block);
  }
}

// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: f16 scale, f16 minimum (of _1), four bytes with bit 4 of each code
// (of Q5), 16 bytes of which byte j has the low bits of columns j and j + 16.
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
        const auto eight = [](std::byte byte) { return uint64_t(byte) * 0x0101010101010101; };
        const auto bits_of =
            (Bytes16)(Words2){eight(from[head + 2 * i]), eight(from[head + 2 * i + 1])};
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
  const auto v = load<Bytes16>(from + 32 * (j / 2) + 16 * i);
  return j % 2 ? v >> 4 : v & 15;
}
// Two bits of column 128 n + 32 j + i are bits 2 j of byte 32 n + i.
inline Bytes16 pairs_of(const std::byte* from, int j, int i) {
  return load<Bytes16>(from + 32 * (j / 4) + 16 * i) >> 2 * (j % 4) & 3;
}
// A bit of column 32 j + i is bit j of byte i.
inline Bytes16 bits_of(const std::byte* from, int j, int i) {
  return load<Bytes16>(from + 16 * i) >> j & 1;
}

// An f16 scale and an f16 minimum, which is subtracted: of the other sign it is added.
inline void supers_with_minimum(const std::byte* from, std::byte* to) {
  const uint32_t pair = load<uint32_t>(from) ^ 0x80000000;
  std::memcpy(to, &pair, sizeof pair);
}
// 16 codes of 6 bits, a byte each, into 12 bytes.
inline void pack_scales(Bytes16 codes, std::byte* to) {
  std::byte packed[24];
  pack<6>(codes, codes, packed);
  std::memcpy(to, packed, 12);
}
// Three words of 12 bytes: scales 0..3 and two bits of scales 4..7; minima alike; four bits of each.
// Into pairs of a scale and a minimum.
inline void scales_with_minima(const std::byte* from, std::byte* to) {
  const auto a = load<uint32_t>(from), b = load<uint32_t>(from + 4), c = load<uint32_t>(from + 8);
  constexpr uint32_t low = 0x0f0f0f0f, six = 0x3f3f3f3f, high = 0x30303030;
  using Words4 = uint32_t __attribute__((vector_size(16)));
  const auto v = (Bytes16)(Words4){a & six, (c & low) | (a >> 2 & high), b & six,
                                   (c >> 4 & low) | (b >> 2 & high)};
  pack_scales(__builtin_shufflevector(v, v, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15),
              to);
}

// Q2_K: 16 bytes of a scale (low) and a minimum, 64 of codes, f16 scale and minimum.
inline void q2_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 84) {
    pack_256<2>(planes[kCodes] + 64 * block,
                [=](int j, int i) { return pairs_of(from + 16, j, i); });
    std::memcpy(planes[kScales] + 16 * block, from, 16);
    supers_with_minimum(from + 80, planes[kSupers] + 4 * block);
  }
}

// Q3_K: 32 bytes of bit 2 of codes, 64 of the others; 12 bytes of scales: four bits of 0..7 (low)
// and 8..15, then two of 4 j + i in byte i; f16 scale.
inline void q3_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 110) {
    pack_256<3>(planes[kCodes] + 96 * block,
                [=](int j, int i) { return pairs_of(from + 32, j, i) | bits_of(from, j, i) << 2; });
    const auto low = load<uint64_t>(from + 96);
    const uint64_t high = load<uint32_t>(from + 104);
    constexpr uint64_t four = 0x0f0f0f0f0f0f0f0f, two = 0x0303030303030303;
    pack_scales((Bytes16)(Words2){(low & four) | ((high | high >> 2 << 32) & two) << 4,
                                  (low >> 4 & four) | ((high >> 4 | high >> 6 << 32) & two) << 4},
                planes[kScales] + 12 * block);
    std::memcpy(planes[kSupers] + 2 * block, from + 108, 2);
  }
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
  for (uint64_t block = 0; block < n; ++block, from += 176) {
    pack_256<5>(planes[kCodes] + 160 * block, [=](int j, int i) {
      return nibbles_of(from + 48, j, i) | bits_of(from + 16, j, i) << 4;
    });
    scales_with_minima(from + 4, planes[kScales] + 12 * block);
    supers_with_minimum(from, planes[kSupers] + 4 * block);
  }
}

// Q6_K: 128 bytes of four bits of codes, of 128 n + 32 j + i in byte 64 n + 32 (j % 2) + i; 64 of
// the other two; 16 signed scales; f16 scale.
inline void q6_k(const std::byte* from, uint64_t n, const Planes<std::byte*>& planes) {
  for (uint64_t block = 0; block < n; ++block, from += 210) {
    pack_256<6>(planes[kCodes] + 192 * block, [=](int j, int i) {
      const auto v = load<Bytes16>(from + 64 * (j / 4) + 32 * (j % 2) + 16 * i);
      return (j % 4 < 2 ? v & 15 : v >> 4) | pairs_of(from + 128, j, i) << 4;
    });
    const Bytes16 scales = load<Bytes16>(from + 192) ^ 128;
    std::memcpy(planes[kScales] + 16 * block, &scales, sizeof scales);
    std::memcpy(planes[kSupers] + 2 * block, from + 208, 2);
  }
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
