// The table of weight formats: bytes of planes, what is refused, numbers as float.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/format.h"
#include "faulty_file.h"
#include "other_formats.h"
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
  refused({1, 64, &plain(DType::f16), 0, DType::bf16}, "numbers of f16, found bf16");
  CHECK_THROWS_WITH_AS(find_format("affine7"), doctest::Contains("found affine7"), FormatError);
  Format other = find_format("affine4");
  other.name = "other";
  other.planes[kScales].rows = 128;  // of integers
  refused({1, 64, &other, 32, DType::bf16}, "found other, which no kernel computes with");
  const Format& k = find_format("q4_k");
  refused({1, 384, &k, 32, DType::f16}, "whole groups of 256, found 384");
  const Format levels = moeflux::test::two_levels(4, {6, 0, true});  // in planes
  refused({1, 384, &levels, 32, DType::f16}, "whole groups of 256, found 384");
  const Format blocks = moeflux::test::in_blocks();
  refused({1, 64, &blocks, 16, DType::bf16}, "numbers of f16, found bf16");
  refused({1, 48, &blocks, 16, DType::f16}, "whole groups of 32, found 48");
  check_shape({1, 64, &blocks, 16, DType::f16}, "w");
}

TEST_CASE("blocks become the planes that they mean, wherever a reader begins, and nothing else") {
  const Format blocks = moeflux::test::in_blocks();
  const Shape shape{3, 96, &blocks, 16, DType::f16};  // of nine blocks
  CHECK(shape.file_bytes(kCodes) == 9 * 20);
  CHECK(shape.file_bytes(kScales) == 0);
  const auto places = place_planes(shape, 64);
  CHECK(places == std::array<uint64_t, 4>{0, 192, 192 + 36, 192 + 36});
  const std::vector<std::byte> file = noise(9 * 20);
  std::vector<std::byte> expected(places.back(), std::byte{0xA5});
  for (size_t column = 0; column < 3 * 96; ++column) {
    const std::byte* block = &file[column / 32 * 20];
    std::byte& codes = expected[column / 2];
    const std::byte code = block[4 + column % 16] >> (column % 32 < 16 ? 0 : 4) & std::byte{15};
    codes = column % 2 ? (codes & std::byte{15}) | code << 4 : code;
    if (column % 16 == 0) std::memcpy(&expected[192 + column / 8], block + column % 32 / 8, 2);
  }
  for (size_t cut = 0; cut <= 9; ++cut) {
    std::vector<std::byte> planes(places.back(), std::byte{0xA5});
    const std::span<const std::byte> all(file);
    transcode(shape, all.first(20 * cut), 0, planes.data(), 64);
    const Matrix last = transcode(shape, all.subspan(20 * cut), cut, planes.data(), 64);
    CHECK(planes == expected);
    CHECK(last.planes[kScales] == planes.data() + 192 + 4 * cut);
    CHECK(last.shape.nbytes() == (9 - cut) * 20);
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

TEST_CASE("an exponent of 255 and a super that is no number are seen, in their planes alone") {
  const auto is_finite = [](const char* format, uint32_t columns, size_t plane, size_t at) {
    const Shape shape{1, columns, &find_format(format), 32, DType::f16};
    std::vector<std::byte> bytes(shape.nbytes());
    const std::array<uint64_t, kPlanes + 1> places = place_planes(shape, 1);
    bytes[places[plane] + at] = std::byte{255};
    return all_finite(contiguous(shape, bytes.data()));
  };
  const Format& fp8 = find_format("fp8");
  for (const uint32_t byte : {0x7f, 0xff, 0x7e, 0xf7}) {
    const std::byte found = std::byte(byte);
    const Shape shape{1, 96, &fp8, 128, DType::f32};
    CHECK(all_finite(shape, kCodes, {&found, 1}) == ((byte & 0x7f) != 0x7f));
  }
  CHECK_FALSE(is_finite("mxfp4", 96, kScales, 2));
  CHECK(is_finite("mxfp4", 96, kCodes, 2));
  CHECK_FALSE(is_finite("q4_k", 512, kSupers, 7));
  CHECK(is_finite("q4_k", 512, kSupers, 6));
  CHECK(is_finite("q4_k", 512, kScales, 7));
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
