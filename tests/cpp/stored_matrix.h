// A stored matrix of random weights and what it means, in double.
#pragma once
#include <cstring>
#include <random>
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

  Stored(const quant::Shape& shape, Random& random) {
    m.shape = shape;
    const auto [out, in, format, group, dtype] = shape;
    const uint32_t bits = format->bits;
    const bool has_biases = format->planes[quant::kSupers].name != nullptr;
    for (uint32_t row = 0; row < out; ++row) {
      if (bits == 0) {
        for (uint32_t i = 0; i < in; ++i) value.push_back(put(weight, random(), dtype));
        continue;
      }
      std::vector<uint8_t> stream(m.shape.row_bytes());
      for (uint32_t g = 0; g < in / group; ++g) {
        const double scale = put(scales, random(), dtype);
        const double bias = has_biases ? put(biases, random(), dtype) : 0;
        for (uint32_t i = g * group; i < (g + 1) * group; ++i) {
          const uint32_t code = random.engine() & ((1u << bits) - 1);
          for (uint32_t bit = 0; bit < bits; ++bit)
            if (code >> bit & 1) stream[(i * bits + bit) / 8] |= 1 << (i * bits + bit) % 8;
          const uint32_t meant = format->table ? format->table[code] : code;
          value.push_back(scale * (double(meant) - format->zero) + bias);
        }
      }
      for (uint8_t byte : stream) weight.push_back(std::byte(byte));
    }
    m.planes[quant::kCodes] = weight.data();
    if (bits) m.planes[quant::kScales] = scales.data();
    if (has_biases) m.planes[quant::kSupers] = biases.data();
  }
};

}  // namespace moeflux::test
