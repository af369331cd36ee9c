// The rule is that of MLX's own quantiser, in float32 and step by step, so that all bits are equal.
#include "base/affine.h"

#include <cmath>

#include "base/bit_stream.h"

namespace moeflux::quant {

namespace {

using Floats4 = float __attribute__((vector_size(16)));

constexpr float kLeastScale = 1e-7f;
constexpr float kToInteger = 0x1.8p23f;  // what is added to it is rounded to the nearest even one
constexpr uint32_t kExponent = 0x7f800000;

struct Extremes {
  float low, high;
  bool finite;
};

Extremes extremes(const float* values, uint32_t n) {
  Floats4 low = load<Floats4>(values), high = low;
  Words4 wrong = {};
  for (uint32_t i = 0; i < n; i += 4) {
    const Floats4 v = load<Floats4>(values + i);
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

// 16 codes, a byte each.
Bytes16 codes_of(const float* values, Line line, float top) {
  const auto four = [&](const float* from) {
    Floats4 code = (load<Floats4>(from) - line.bias) / line.scale;
    code = code > 0 ? code : Floats4{};
    code = code < top ? code : top - Floats4{};
    return (Bytes16)((Words4)(code + kToInteger) & 255);
  };
  return even_bytes(even_bytes(four(values), four(values + 4)),
                    even_bytes(four(values + 8), four(values + 12)));
}

template <uint32_t bits>
bool quantize_as(std::span<const float> values, uint32_t group, std::byte* codes, float* scales,
                 float* biases) {
  constexpr float top = (1u << bits) - 1;
  bool finite = true;
  each_block<4 * bits>(codes, values.size() / 32, [&](uint64_t block, std::byte* to) {
    const float* from = values.data() + 32 * block;
    const uint64_t i = 32 * block / group;
    if (32 * block % group == 0) {
      const Extremes found = extremes(from, group);
      const Line each = line(found, top);
      finite = finite && found.finite && std::isfinite(found.high - found.low) && each.scale != 0;
      scales[i] = each.scale;
      biases[i] = each.bias;
    }
    const Line each{scales[i], biases[i]};
    pack<bits>(codes_of(from, each, top), codes_of(from + 16, each, top), to);
  });
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
