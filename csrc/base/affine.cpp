// The rule is that of MLX's own quantiser, in float32 and step by step, so that all bits are equal.
#include "base/affine.h"

#include <cmath>
#include <cstring>

namespace moeflux::quant {

namespace {

// What every machine has registers for.
using Floats4 = float __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Words2 = uint64_t __attribute__((vector_size(16)));

constexpr float kLeastScale = 1e-7f;
constexpr float kToInteger = 0x1.8p23f;  // what is added to it is rounded to the nearest even one
constexpr uint32_t kExponent = 0x7f800000;

struct Extremes {
  float low, high;
  bool finite;
};

Floats4 load(const float* values) {
  Floats4 v;
  std::memcpy(&v, values, sizeof v);
  return v;
}

Extremes extremes(const float* values, uint32_t n) {
  Floats4 low = load(values), high = low;
  Words4 wrong = {};
  for (uint32_t i = 0; i < n; i += 4) {
    const Floats4 v = load(values + i);
    low = v < low ? v : low;
    high = v > high ? v : high;
    wrong |= (Words4)(((Words4)v & kExponent) == kExponent);
  }
  Extremes all{low[0], high[0], !(wrong[0] | wrong[1] | wrong[2] | wrong[3])};
  for (int lane = 1; lane < 4; ++lane) {
    all.low = low[lane] < all.low ? low[lane] : all.low;
    all.high = high[lane] > all.high ? high[lane] : all.high;
  }
  return all;
}

struct Line {
  float scale, bias;
};

// The edge of the larger magnitude is a code's value exactly; with the upper one scales are negative.
Line line(const Extremes& found, float top) {
  const bool low_is_edge = std::fabs(found.low) > std::fabs(found.high);
  const float least = (found.high - found.low) / top;
  float scale = least > kLeastScale ? least : kLeastScale;
  scale = low_is_edge ? scale : -scale;
  const float edge = low_is_edge ? found.low : found.high;
  const float code = std::nearbyintf(edge / scale);
  if (code == 0) return {scale, 0};
  return {edge / code, edge};
}

Bytes16 even_bytes(Words4 a, Words4 b) {
  return __builtin_shufflevector((Bytes16)a, (Bytes16)b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22,
                                 24, 26, 28, 30);
}

// Twice eight codes, a byte each, to the lowest bytes: pairs of one, two and four move together.
template <uint32_t bits>
Words2 join(Words2 w) {
  constexpr uint64_t mask = (1u << bits) - 1, one = mask * 0x0001000100010001,
                     two = (mask << bits | mask) * 0x0000000100000001,
                     four = (1ull << 4 * bits) - 1;
  w = (w & one) | (w >> (8 - bits) & one << bits);
  w = (w & two) | (w >> (16 - 2 * bits) & two << 2 * bits);
  return (w & four) | (w >> (32 - 4 * bits) & four << 4 * bits);
}

template <uint32_t bits>
void encode(const float* values, uint32_t n, Line line, std::byte* to) {
  constexpr float top = (1u << bits) - 1;
  const auto codes = [&](const float* from) {
    Floats4 code = (load(from) - line.bias) / line.scale;
    code = code > 0 ? code : Floats4{};
    code = code < top ? code : top - Floats4{};
    return (Words4)(code + kToInteger) & 255;
  };
  for (uint32_t i = 0; i < n; i += 16, to += 2 * bits) {
    const float* from = values + i;
    const Bytes16 first = even_bytes(codes(from), codes(from + 4)),
                  second = even_bytes(codes(from + 8), codes(from + 12));
    const Words2 words = join<bits>((Words2)even_bytes((Words4)first, (Words4)second));
    for (int half = 0; half < 2; ++half) {
      const uint64_t word = words[half];
      std::memcpy(to + half * bits, &word, bits);
    }
  }
}

template <uint32_t bits>
bool quantize_as(std::span<const float> values, uint32_t group, std::byte* codes, float* scales,
                 float* biases) {
  constexpr float top = (1u << bits) - 1;
  bool finite = true;
  for (size_t i = 0; i < values.size() / group; ++i) {
    const float* of_group = values.data() + i * group;
    const Extremes found = extremes(of_group, group);
    const Line each = line(found, top);
    finite = finite && found.finite && std::isfinite(found.high - found.low) && each.scale != 0;
    scales[i] = each.scale;
    biases[i] = each.bias;
    encode<bits>(of_group, group, each, codes + i * group * bits / 8);
  }
  return finite;
}

}  // namespace

bool quantize(std::span<const float> values, uint32_t bits, uint32_t group, std::byte* codes,
              float* scales, float* biases) {
  const auto as = [&]<uint32_t n> { return quantize_as<n>(values, group, codes, scales, biases); };
  switch (bits) {
    case 2:
      return as.operator()<2>();
    case 3:
      return as.operator()<3>();
    case 4:
      return as.operator()<4>();
    case 5:
      return as.operator()<5>();
    case 6:
      return as.operator()<6>();
    case 8:
      return as.operator()<8>();
    default:
      return false;
  }
}

}  // namespace moeflux::quant
