// A stored matrix of random weights and what it means, in double.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "base/cat.h"
#include "base/format.h"

namespace moeflux::test {

using quant::DType;

// bits 0: plain.
inline quant::Shape affine_shape(uint32_t out, uint32_t in, uint32_t bits, uint32_t group,
                                 DType dtype) {
  if (bits == 0) return {out, in, &quant::plain(dtype), 0, dtype};
  return {out, in, &quant::find_format(cat("affine", bits)), group, dtype};
}

struct Random {
  std::mt19937 engine{7};
  float operator()(float low = -1, float high = 1) {
    return std::uniform_real_distribution<float>(low, high)(engine);
  }
};

struct Stored {
  quant::Matrix m;
  std::vector<std::byte> weight, scales, biases;
  std::vector<double> value;

  static double put(std::vector<std::byte>& to, float x, DType dtype) {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    if (dtype == DType::f32) {
      to.insert(to.end(), reinterpret_cast<std::byte*>(&word),
                reinterpret_cast<std::byte*>(&word) + 4);
      return x;
    }
    uint16_t half;
    if (dtype == DType::bf16) {
      half = word >> 16;
      word = uint32_t(half) << 16;
    } else {  // truncate to a normal half: enough for test values of about one
      const int exponent = int(word >> 23 & 255) - 127 + 15;
      half = exponent <= 0 ? 0 : (word >> 16 & 0x8000) | exponent << 10 | (word >> 13 & 0x3ff);
      word = exponent <= 0 ? 0 : word & 0xffffe000;
    }
    to.insert(to.end(), reinterpret_cast<std::byte*>(&half),
              reinterpret_cast<std::byte*>(&half) + 2);
    std::memcpy(&x, &word, 4);
    return x;
  }

  Stored(uint32_t out, uint32_t in, uint32_t bits, uint32_t group, DType dtype, Random& random)
      : Stored(affine_shape(out, in, bits, group, dtype), random) {}

  // A stream of `bits` a number: number i, of a row that begins at byte `begin`.
  static void put_bits(std::vector<std::byte>& to, size_t begin, uint64_t i, uint32_t bits,
                       uint32_t number) {
    to.resize(std::max<size_t>(to.size(), begin + ((i + 1) * bits + 7) / 8));
    for (uint32_t bit = 0; bit < bits; ++bit)
      if (number >> bit & 1)
        to[begin + (i * bits + bit) / 8] |= std::byte(1 << (i * bits + bit) % 8);
  }

  Stored(const quant::Shape& shape, Random& random) {
    m.shape = shape;
    const auto [out, in, format, group, dtype] = shape;
    for (uint32_t row = 0; row < out; ++row) {
      if (format->bits == 0) {
        for (uint32_t i = 0; i < in; ++i) value.push_back(put(weight, random(), dtype));
        continue;
      }
      const size_t begin = weight.size(), scale_begin = scales.size();
      double super = 0, super_minimum = 0;
      for (uint32_t g = 0; g < in / group; ++g) {
        if (format->levels.bits && g * group % 256 == 0) {
          super = put(biases, random(), dtype);
          if (format->levels.has_minimum) super_minimum = put(biases, random(), dtype);
        }
        const auto [scale, bias] = format->levels.bits
                                       ? put_levels(scale_begin, g, super, super_minimum, random)
                                       : put_scale(random);
        for (uint32_t i = g * group; i < (g + 1) * group; ++i) {
          const uint32_t code = random.engine() & ((1u << format->bits) - 1);
          put_bits(weight, begin, i, format->bits, code);
          const uint32_t meant = format->table ? format->table[code] : code;
          value.push_back(scale * (double(meant) - format->zero) + bias);
        }
      }
    }
    m.planes[quant::kCodes] = weight.data();
    if (format->bits) m.planes[quant::kScales] = scales.data();
    if (format->planes[quant::kSupers].name) m.planes[quant::kSupers] = biases.data();
  }

  // A scale and a bias of one level.
  std::pair<double, double> put_scale(Random& random) {
    const quant::Format& format = *m.shape.format;
    if (format.has_exponents()) {
      scales.push_back(std::byte(120 + random.engine() % 16));
      return {std::ldexp(1.0, int(scales.back()) - 128), 0};
    }
    const double scale = put(scales, random(), m.shape.dtype);
    return {scale, format.planes[quant::kSupers].name ? put(biases, random(), m.shape.dtype) : 0};
  }
  // Of two.
  std::pair<double, double> put_levels(size_t begin, uint32_t g, double super, double minimum,
                                       Random& random) {
    const auto [bits, zero, has_minimum] = m.shape.format->levels;
    const auto integer = [&](uint32_t place) {
      const uint32_t value = random.engine() & ((1u << bits) - 1);
      put_bits(scales, begin, (has_minimum + 1) * g + place, bits, value);
      return value;
    };
    const double scale = super * (double(integer(0)) - zero);
    return {scale, has_minimum ? minimum * integer(1) : 0};
  }
};

}  // namespace moeflux::test
