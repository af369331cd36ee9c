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
  std::vector<double> of_group;  // of floats: scales of the last rows
  double of_all = 1;             // what scales of floats are multiplied by

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
      if (format->planes[quant::kCodes].float8 != quant::Float8::none) {
        put_floats(row, random);
        continue;
      }
      const bool has_integers = format->levels.bits && format->planes[quant::kScales].bits &&
                                format->planes[quant::kScales].float8 == quant::Float8::none;
      if (format->levels.bits && !has_integers && row == 0) of_all = put(biases, random(), dtype);
      for (uint32_t g = 0; g < in / group; ++g) {
        if (has_integers && g * group % 256 == 0) {
          super = put(biases, random(), dtype);
          if (format->levels.has_minimum) super_minimum = put(biases, random(), dtype);
        }
        const auto [scale, bias] = has_integers
                                       ? put_levels(scale_begin, g, super, super_minimum, random)
                                       : put_scale(random, row, g);
        for (uint32_t i = g * group; i < (g + 1) * group; ++i) {
          const uint32_t code = random.engine() & ((1u << format->bits) - 1);
          put_bits(weight, begin, i, format->bits, code);
          const uint32_t meant = format->table ? format->table[code] : code;
          value.push_back(scale * of_all * (double(meant) - format->zero) + bias);
        }
      }
    }
    m.planes[quant::kCodes] = weight.data();
    if (format->bits) m.planes[quant::kScales] = scales.data();
    if (format->planes[quant::kSupers].name) m.planes[quant::kSupers] = biases.data();
  }

  // What a byte means of the two kinds of floats; finite.
  static double float8(quant::Float8 kind, uint32_t byte) {
    if (kind == quant::Float8::e8m0) return std::ldexp(1.0, int(byte) - 127);
    const int exponent = byte >> 3 & 15, mantissa = byte & 7;
    const double magnitude =
        exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
    return byte & 128 ? -magnitude : magnitude;
  }
  // Row `row` of floats, whose scales may be those of the rows before.
  void put_floats(uint32_t row, Random& random) {
    const quant::Shape& shape = m.shape;
    const uint32_t of_rows = shape.format->planes[quant::kScales].rows;
    const uint32_t n_groups = (shape.in + shape.group - 1) / shape.group;
    if (row % of_rows == 0) {
      of_group.clear();
      for (uint32_t g = 0; g < n_groups; ++g) of_group.push_back(put_scale(random, row, g).first);
    }
    for (uint32_t i = 0; i < shape.in; ++i) {
      const uint32_t byte = random.engine() & 255, finite = (byte & 127) == 127 ? byte - 1 : byte;
      weight.push_back(std::byte(finite));
      value.push_back(float8(quant::Float8::e4m3, finite) * of_group[i / shape.group]);
    }
  }
  // A scale and a bias of one level.
  std::pair<double, double> put_scale(Random& random, uint32_t row, uint32_t g) {
    const quant::Format& format = *m.shape.format;
    if (const quant::Float8 kind = format.planes[quant::kScales].float8;
        kind != quant::Float8::none) {
      scales.push_back(std::byte(kind == quant::Float8::e8m0 ? 120 + random.engine() % 16
                                                             : random.engine() % 127));
      return {float8(kind, uint32_t(scales.back())) / (format.doubled ? 2 : 1), 0};
    }
    const double scale = put(scales, random(), m.shape.dtype);
    if (format.has_zeros()) {
      const uint32_t zero = random.engine() & 15, n_groups = m.shape.in / m.shape.group;
      biases.resize(m.shape.plane_bytes(quant::kSupers));
      biases[(row / 8 * n_groups + g) * 4 + row % 8 / 2] |= std::byte(zero << row % 2 * 4);
      return {scale, -scale * zero};
    }
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
