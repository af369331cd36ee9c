#include "base/format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/arena.h"
#include "base/error.h"
#include "base/transcoders.h"

namespace moeflux::quant {

namespace {

constexpr uint32_t kMlxGroups[] = {32, 64, 128}, k128[] = {128}, k32[] = {32}, k16[] = {16},
                   kWhole[] = {kAll};

constexpr Format numbers(const char* name, DType dtype) {
  return {.name = name, .planes = {{{.name = "weight"}}}, .dtype = dtype};
}
constexpr Format affine(const char* name, uint32_t bits) {
  return {.name = name,
          .bits = bits,
          .planes = {{{.name = "weight", .bits = bits},
                      {.name = "scales", .columns = 0, .finite = true},
                      {.name = "biases", .columns = 0, .finite = true}}},
          .groups = kMlxGroups};
}
// No biases but a zero in the middle, as compressed-tensors packs integers.
constexpr Format symmetric(const char* name, uint32_t bits) {
  Format format = affine(name, bits);
  format.planes[kSupers] = {};
  format.zero = 1u << (bits - 1);
  return format;
}
// A zero a group, those of eight rows in a word.
constexpr Format asymmetric4(const char* name) {
  Format format = affine(name, 4);
  format.planes[kSupers] = {.name = "zeros", .bits = 32, .columns = 0, .rows = 8};
  return format;
}
// A block is a group, with an f16 scale and an f16 minimum or a zero in the middle.
constexpr Format gguf(const char* name, uint32_t bits, bool has_minimum, Transcoder transcode) {
  Format format = has_minimum ? affine(name, bits) : symmetric(name, bits);
  format.groups = k32;
  format.dtype = DType::f16;
  format.block_columns = 32;
  format.block_bytes = (has_minimum ? 4 : 2) + 4 * bits;
  format.transcode = transcode;
  return format;
}

// What codes of 4 bits stand for, with the zero added that is subtracted again: floats of 4 bits
// (E2M1) doubled, whose exponents (E8M0) are of halves; a grid that is finer around zero.
constexpr uint8_t kFloats[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr uint32_t kFloatZero = 12, kGridZero = 128;
constexpr uint8_t kGrid[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                               129, 141, 153, 166, 181, 197, 217, 241};

constexpr Format by_table(Format format, const uint8_t* table, uint32_t zero) {
  format.table = table;
  format.zero = zero;
  return format;
}
constexpr Plane scales8(Float8 kind) {
  return {.name = "scales",
          .bits = 8,
          .columns = 0,
          .finite = true,
          .float8 = kind,
          .dtype = kBlockBytes};
}
// Floats of 4 bits, in planes as MLX and gpt-oss have them.
constexpr Format floats(const char* name, std::span<const uint32_t> group, Float8 scales) {
  return {.name = name,
          .bits = 4,
          .planes = {{{.name = "weight", .bits = 4}, scales8(scales), {}}},
          .groups = group,
          .zero = kFloatZero,
          .table = kFloats,
          .doubled = true};
}
// The same in bytes, with scales of E4M3 that one number multiplies.
constexpr Format floats_of_tensor(const char* name, std::span<const uint32_t> group) {
  Format format = floats(name, group, Float8::e4m3);
  format.planes[kCodes].dtype = kBlockBytes;
  format.planes[kScales].dtype = kE4m3;
  format.planes[kSupers] = {.name = "supers", .columns = kAll, .rows = kAll, .finite = true};
  format.levels = {.bits = 8};
  format.dtype = DType::f32;
  return format;
}
// Floats of 8 bits in tensors of `dtype`, and their scales.
constexpr Format floats8(const char* name, const char* dtype, std::span<const uint32_t> group,
                         Plane scales) {
  const Plane weight = {
      .name = "weight", .bits = 8, .finite = true, .float8 = Float8::e4m3, .dtype = dtype};
  return {.name = name, .bits = 8, .planes = {{weight, scales, {}}}, .groups = group};
}
constexpr Format in_blocks(Format format, uint32_t columns, uint32_t block_bytes,
                           Transcoder transcode) {
  format.block_columns = columns;
  format.block_bytes = block_bytes;
  format.transcode = transcode;
  return format;
}

// A block has groups of small integers, and an f16 of 256 columns that they multiply.
constexpr Format gguf_k(const char* name, uint32_t bits, std::span<const uint32_t> group,
                        Levels levels, uint32_t zero, Transcoder transcode) {
  const uint32_t numbers = levels.has_minimum ? 2 : 1, scale_bits = numbers * levels.bits;
  return {.name = name,
          .bits = bits,
          .planes = {{{.name = "weight", .bits = bits},
                      {.name = "scales", .bits = scale_bits, .columns = 0},
                      {.name = "supers", .bits = 16 * numbers, .columns = 256, .finite = true}}},
          .groups = group,
          .dtype = DType::f16,
          .levels = levels,
          .zero = zero,
          .block_columns = 256,
          .block_bytes = 32 * bits + 256 / group[0] * scale_bits / 8 + 2 * numbers,
          .transcode = transcode};
}

constexpr Format kFormats[] = {
    // in the order of DType
    numbers("f32", DType::f32),
    numbers("f16", DType::f16),
    numbers("bf16", DType::bf16),
    // MLX's
    affine("affine2", 2),
    affine("affine3", 3),
    affine("affine4", 4),
    affine("affine5", 5),
    affine("affine6", 6),
    affine("affine8", 8),
    // compressed-tensors'
    symmetric("symmetric4", 4),
    asymmetric4("asymmetric4"),
    // GGUF's
    gguf("q8_0", 8, false, signed_bytes),
    gguf("q4_0", 4, false, halves<4, false>),
    gguf("q4_1", 4, true, halves<4, true>),
    gguf("q5_0", 5, false, halves<5, false>),
    gguf("q5_1", 5, true, halves<5, true>),
    gguf_k("q2_k", 2, k16, {4, 0, true}, 0, q2_k),
    gguf_k("q3_k", 3, k16, {6, 32, false}, 4, q3_k),
    gguf_k("q4_k", 4, k32, {6, 0, true}, 0, q4_k),
    gguf_k("q5_k", 5, k32, {6, 0, true}, 0, q5_k),
    gguf_k("q6_k", 6, k16, {8, 128, false}, 32, q6_k),
    by_table(gguf("iq4_nl", 4, false, halves<4, false>), kGrid, kGridZero),
    by_table(gguf_k("iq4_xs", 4, k32, {6, 32, false}, 0, iq4_xs), kGrid, kGridZero),
    in_blocks(floats("mxfp4", k32, Float8::e8m0), 32, 17, mxfp4),
    in_blocks(floats("nvfp4", k16, Float8::e4m3), 64, 36, nvfp4),
    // the same in planes: MLX's, gpt-oss'
    floats("mxfp4_planes", k32, Float8::e8m0),
    // MLX's others
    floats("nvfp4_planes", k16, Float8::e4m3),
    floats8("mxfp8", kCodeWords, k32, scales8(Float8::e8m0)),
    // ModelOpt's
    floats_of_tensor("nvfp4_tensor", k16),
    // compressed-tensors': a scale a row
    floats8("fp8_rows", kE4m3, kWhole, {.name = "scales", .columns = 0, .finite = true}),
    // Mistral's, ModelOpt's: one for all
    floats8("fp8_tensor", kE4m3, kWhole,
            {.name = "scales", .columns = 0, .rows = kAll, .finite = true}),
    // DeepSeek's: a scale of 128 columns and rows
    floats8("fp8", kE4m3, k128, {.name = "scales", .columns = 0, .rows = 128, .finite = true}),
};

// "1, 2 or 3", of what get() gives.
std::string alternatives(const auto& values, const auto& get) {
  std::string text;
  size_t left = std::size(values);
  for (const auto& value : values) text += cat(get(value), --left > 1 ? ", " : left ? " or " : "");
  return text;
}

// The exponent bits are all set in NaN and infinity, and only there: with the lowest of them added,
// they carry into the sign's place. Nothing but sums and ors, so that compilers make vectors of it.
template <class Word>
bool no_word_has_all(const std::byte* data, uint64_t count, Word mask) {
  constexpr Word kTop = Word(1) << (8 * sizeof(Word) - 1);
  const Word lowest = static_cast<Word>(kTop - mask);
  Word carries = 0;
  for (uint64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, data + i * sizeof(Word), sizeof(Word));
    carries = static_cast<Word>(carries | ((word & mask) + lowest));
  }
  return (carries & kTop) == 0;
}

float widen_half(uint16_t half) {  // a finite one
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  const float magnitude = exponent ? std::bit_cast<float>((exponent + 112) << 23 | mantissa << 13)
                                   : static_cast<float>(mantissa) * 0x1p-24f;
  return half & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

DType dtype_of(std::string_view name) {
  constexpr std::string_view kNames[] = {"F32", "F16", "BF16"};
  const auto found = std::ranges::find(kNames, name);
  if (found == std::end(kNames))
    throw FormatError("[quant::dtype_of] expected dtype F32, F16 or BF16, found ", name);
  return static_cast<DType>(found - kNames);
}

std::span<const Format> formats() {
  return kFormats;
}

const Format& find_format(std::string_view name) {
  const auto found = std::ranges::find(kFormats, name, &Format::name);
  if (found == std::end(kFormats))
    throw FormatError("[quant::find_format] expected ",
                      alternatives(kFormats, [](const Format& f) { return f.name; }), ", found ",
                      name);
  return *found;
}

const Format& plain(DType dtype) {
  return kFormats[static_cast<size_t>(dtype)];
}

uint32_t Format::width() const {
  return table ? static_cast<uint32_t>(std::bit_width(*std::max_element(table, table + 16))) : bits;
}

uint64_t Shape::row_bytes(size_t index) const {
  const Plane& plane = format->planes[index];
  if (plane.name == nullptr) return 0;
  const uint64_t columns = plane.columns ? plane.columns : group;
  const uint64_t elements = (in + columns - 1) / columns;
  return elements * (plane.bits ? plane.bits : 8 * dtype_bytes(dtype)) / 8;
}

uint64_t Shape::plane_bytes(size_t plane) const {
  const uint64_t rows = format->planes[plane].rows;
  return (out + rows - 1) / rows * row_bytes(plane);
}

uint64_t Shape::nbytes() const {
  return plane_bytes(kCodes) + plane_bytes(kScales) + plane_bytes(kSupers);
}

uint64_t Shape::file_bytes(size_t plane) const {
  if (!format->in_file(plane)) return 0;
  if (format->transcode == nullptr) return plane_bytes(plane);
  return uint64_t(out) * (in / format->block_columns) * format->block_bytes;
}

std::array<uint64_t, kPlanes + 1> place_planes(const Shape& shape, uint64_t alignment) {
  std::array<uint64_t, kPlanes + 1> places{};
  for (size_t plane = 0; plane < kPlanes; ++plane) {
    const uint64_t end = places[plane] + shape.plane_bytes(plane);
    places[plane + 1] = plane + 1 < kPlanes && shape.format->planes[plane + 1].name
                            ? base::round_up(end, alignment)
                            : end;
  }
  return places;
}

Matrix contiguous(const Shape& shape, const std::byte* data) {
  Matrix matrix{shape, {}};
  const auto places = place_planes(shape, 1);
  for (size_t plane = 0; plane < kPlanes; ++plane)
    if (shape.format->planes[plane].name) matrix.planes[plane] = data + places[plane];
  return matrix;
}

Matrix transcode(const Shape& shape, std::span<const std::byte> blocks, uint64_t first,
                 std::byte* data, uint64_t alignment) {
  const Format& format = *shape.format;
  const uint64_t n = blocks.size() / format.block_bytes;
  const auto places = place_planes(shape, alignment);
  Matrix made{shape, {}};
  made.shape.out = 1;
  made.shape.in = format.block_columns;
  Planes<std::byte*> planes{};
  for (size_t plane = 0; plane < kPlanes; ++plane)
    if (format.planes[plane].name)
      made.planes[plane] = planes[plane] =
          data + places[plane] + first * made.shape.row_bytes(plane);
  made.shape.in = static_cast<uint32_t>(n * format.block_columns);
  format.transcode(blocks.data(), n, planes);
  return made;
}

constexpr uint64_t kMostElements = UINT64_C(1) << 56;  // whose bytes are below 2^64

void check_shape(const Shape& shape, const std::string& name) {
  const auto fail = [&](const auto&... what) {
    throw FormatError("[quant::check_shape] ", what..., " (tensor ", name, ")");
  };
  const Format& format = *shape.format;
  if (uint64_t(shape.out) * shape.in > kMostElements)
    fail("expected at most ", kMostElements, " numbers, found ", shape.out, " rows of ", shape.in);
  if (shape.out == 0 || shape.in == 0) fail("expected a matrix with rows and columns, found none");
  if (!format.has_floats() && format.planes[kScales].rows > 1)
    fail("expected a format of one scale a row and group, found ", format.name,
         ", which no kernel computes with");
  if (format.dtype && *format.dtype != shape.dtype)
    fail("expected numbers of ", plain(*format.dtype).name, ", found ", plain(shape.dtype).name);
  if (format.groups.empty()) return;
  if (std::ranges::find(format.groups, shape.group) == format.groups.end())
    fail("expected groups of ", alternatives(format.groups, [](uint32_t group) { return group; }),
         ", found ", shape.group);
  if (format.has_floats()) return;  // the last groups may be cut
  const uint32_t of_super = format.planes[kSupers].columns;
  const uint32_t whole =
      std::max({shape.group, format.block_columns, of_super == kAll ? 0 : of_super});
  if (shape.in % whole != 0)
    fail("expected columns in whole groups of ", whole, ", found ", shape.in);
}

bool all_finite(const std::byte* data, uint64_t count, DType dtype) {
  if (dtype == DType::f32) return no_word_has_all<uint32_t>(data, count, 0x7f800000);
  return no_word_has_all<uint16_t>(data, count, dtype == DType::bf16 ? 0x7f80 : 0x7c00);
}

bool all_finite(const Shape& shape, size_t index, std::span<const std::byte> piece) {
  const Plane& plane = shape.format->planes[index];
  if (!plane.finite) return true;
  if (plane.float8 == Float8::e8m0)
    return piece.empty() || !std::memchr(piece.data(), 255, piece.size());
  if (plane.float8 == Float8::e4m3)
    return no_word_has_all<uint8_t>(piece.data(), piece.size(), 0x7f);
  return all_finite(piece.data(), piece.size() / dtype_bytes(shape.dtype), shape.dtype);
}

bool all_finite(const Matrix& matrix) {
  for (size_t plane = 0; plane < kPlanes; ++plane)
    if (!all_finite(matrix.shape, plane, {matrix.planes[plane], matrix.shape.plane_bytes(plane)}))
      return false;
  return true;
}

float widen_e4m3(std::byte number) {  // the bits, in a float's place, are 2^-120 times as much
  const auto bits = static_cast<uint32_t>(number);
  return std::bit_cast<float>((bits & 128) << 24 | (bits & 127) << 20) * 0x1p120f;
}

void to_float(const std::byte* data, uint64_t count, DType dtype, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, data, count * sizeof(float));
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, data + 2 * i, 2);
    out[i] = dtype == DType::f16 ? widen_half(half) : std::bit_cast<float>(uint32_t(half) << 16);
  }
}

}  // namespace moeflux::quant
