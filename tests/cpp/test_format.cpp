// The table of weight formats: bytes of planes, what is refused, numbers as float.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/format.h"
#include "stored_matrix.h"

using namespace moeflux;
using namespace moeflux::quant;
using moeflux::test::affine_shape;

TEST_CASE("planes of an affine matrix have the bytes of MLX's tensors") {
  for (const uint32_t bits : {2, 3, 4, 5, 6, 8})
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const uint32_t group : {32, 64, 128}) {
        const Shape shape = affine_shape(7, 384, bits, group, dtype);
        const uint64_t words = 384 * bits / 32,
                       scales = 384 / group * (dtype == DType::f32 ? 4 : 2);
        CHECK(shape.plane_bytes(kCodes) == 7 * words * 4);
        CHECK(shape.plane_bytes(kScales) == 7 * scales);
        CHECK(shape.plane_bytes(kSupers) == 7 * scales);
        CHECK(shape.nbytes() == 7 * (words * 4 + 2 * scales));
        check_shape(shape, "w");
        const std::byte* at = reinterpret_cast<const std::byte*>(&shape);
        const Matrix matrix = contiguous(shape, at);
        CHECK(matrix.planes[kScales] == at + 7 * words * 4);
        CHECK(matrix.planes[kSupers] == matrix.planes[kScales] + 7 * scales);
      }
}

TEST_CASE("plain numbers are one plane, and every format is found by its name") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Shape shape = affine_shape(5, 9, 0, 64, dtype);
    CHECK(shape.nbytes() == 5 * 9 * dtype_bytes(dtype));
    const Matrix matrix = contiguous(shape, reinterpret_cast<const std::byte*>(&shape));
    CHECK(matrix.planes[kScales] == nullptr);
    CHECK(matrix.planes[kSupers] == nullptr);
    check_shape(shape, "w");
  }
  for (const Format& format : formats()) CHECK(&find_format(format.name) == &format);
}

TEST_CASE("a shape that its format or the kernels have not is refused by name") {
  const auto refused = [](const Shape& shape, const char* words) {
    CHECK_THROWS_WITH_AS(check_shape(shape, "w"), doctest::Contains(words), FormatError);
  };
  refused(affine_shape(0, 64, 4, 32, DType::bf16), "rows and columns, found none (tensor w)");
  refused(affine_shape(1, 64, 4, 16, DType::bf16), "groups of 32, 64 or 128, found 16");
  refused(affine_shape(1, 64, 4, 0, DType::bf16), "groups of 32, 64 or 128, found 0");
  refused(affine_shape(1, 96, 4, 64, DType::bf16), "whole groups of 64, found 96");
  refused({1, 64, &plain(DType::f16), 0, DType::bf16}, "one type, found f16 and bf16");
  CHECK_THROWS_WITH_AS(find_format("affine7"), doctest::Contains("affine8, found affine7"),
                       FormatError);
  Format format = find_format("affine4");
  const int8_t table[16] = {};
  Format others[] = {format, format, format, format};
  others[0].zero = 8;
  others[1].levels = 2;
  others[2].table = table;
  others[3].planes[kScales].rows = 128;
  for (Format& other : others) {
    other.name = "other";
    refused({1, 64, &other, 32, DType::bf16}, "found other, which no kernel computes with");
  }
}

TEST_CASE(
    "a plane whose elements cover several rows has that many rows fewer, the last one whole") {
  Format blocks = find_format("affine8");
  blocks.planes[kScales].rows = 128;
  blocks.planes[kScales].columns = 128;
  const Shape shape{300, 256, &blocks, 128, DType::f32};
  CHECK(shape.plane_bytes(kScales) == 3 * 2 * 4);
}

TEST_CASE("numbers become the floats that they stand for, and NaN and infinity are seen") {
  for (uint32_t half = 0; half < 65536; ++half) {
    const auto word = static_cast<uint16_t>(half);
    const std::byte* data = reinterpret_cast<const std::byte*>(&word);
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    CHECK(all_finite(data, 1, DType::f16) == (exponent != 31));
    if (exponent == 31) continue;
    float found = NAN;
    to_float(data, 1, DType::f16, &found);
    const double magnitude =
        exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    CHECK(found == (half & 0x8000 ? -magnitude : magnitude));
    CHECK(std::signbit(found) == (half >= 0x8000));
  }
  const uint16_t bf16[] = {0x3fc0, 0x8000, 0xff80};
  float out[2];
  to_float(reinterpret_cast<const std::byte*>(bf16), 2, DType::bf16, out);
  CHECK(out[0] == 1.5f);
  CHECK(std::signbit(out[1]));
  CHECK(all_finite(reinterpret_cast<const std::byte*>(bf16), 2, DType::bf16));
  CHECK_FALSE(all_finite(reinterpret_cast<const std::byte*>(bf16), 3, DType::bf16));
}
