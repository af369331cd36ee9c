// Weight formats. A stored matrix [out, in] is up to three planes, each row-major without gaps:
// codes, scales, supers. What they consist of is a row of the table in format.cpp. Nothing but that
// table, its transcoders and the kernels' unpacking knows a layout.
//
// Affine (MLX): a row of codes is a little-endian bit stream; value = scale * code + bias with one
// (scale, bias) a group of consecutive columns; the biases are the third plane. With scales of two
// levels (GGUF) the scales are a bit stream of small integers, and the supers what they multiply.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace moeflux::quant {

enum class DType : uint8_t { f32, f16, bf16 };

constexpr uint64_t dtype_bytes(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}
DType dtype_of(std::string_view name);  // as safetensors have it; throws FormatError
// Safetensors' dtypes of tensors that are no numbers: packed codes; blocks, or scales; floats.
inline constexpr const char *kCodeWords = "U32", *kBlockBytes = "U8", *kE4m3 = "F8_E4M3";

enum : size_t { kCodes, kScales, kSupers, kPlanes };
template <class T>
using Planes = std::array<T, kPlanes>;

// Floats of a byte, as OCP's microscaling formats have them: E4M3, of which 0x7f and 0xff are no
// numbers; E8M0, a byte e that means 2^(e - 127), of which 255 is none.
enum class Float8 : uint8_t { none, e4m3, e8m0 };

inline constexpr uint32_t kAll = UINT32_C(1) << 31;  // columns, or rows, of any matrix

struct Plane {
  const char* name = nullptr;      // of its tensor, within the matrix; null: there is no such plane
  uint32_t bits = 0;               // of an element; 0: a number of the matrix's dtype
  uint32_t columns = 1;            // that an element covers; 0: a group of the matrix
  uint32_t rows = 1;               // that an element covers: a power of two
  bool finite = false;             // numbers that are checked as they are read
  Float8 float8 = Float8::none;    // what elements of 8 bits are; none: integers
  const char* dtype = kCodeWords;  // of its tensor, where elements are no numbers
};

// n blocks, one after the other, into planes that begin at `planes`. Writes nothing else.
using Transcoder = void (*)(const std::byte* blocks, uint64_t n, const Planes<std::byte*>& planes);

// Scales of two levels: a scale is (an integer - zero) * a super, or a float of 8 bits * a super.
struct Levels {
  uint32_t bits = 0;  // of the integer: 4, 6 or 8; 0: scales have one level
  uint32_t zero = 0;
  bool has_minimum = false;  // elements and supers are pairs; the second ones make the bias
};

struct Format {
  const char* name;
  uint32_t bits = 0;  // of a code; 0: weights are numbers of the matrix's dtype
  Planes<Plane> planes;
  std::span<const uint32_t> groups = {};  // columns that a scale may cover; none: no scales
  std::optional<DType> dtype = {};        // of numbers; none: any
  Levels levels = {};
  uint32_t zero = 0;               // instead of biases: subtracted from what a code stands for
  const uint8_t* table = nullptr;  // what the 16 codes of 4 bits stand for; null: themselves
  bool doubled = false;            // the table has twice the numbers that scales multiply
  // Where a file's bytes are not the planes but blocks of so many columns of a row, which a reader
  // transcodes. A block has whole bytes of each plane.
  uint32_t block_columns = 0, block_bytes = 0;
  Transcoder transcode = nullptr;

  // Whether a file has a tensor of the plane's name. Blocks are the codes'.
  bool in_file(size_t plane) const {
    return planes[plane].name != nullptr && (plane == kCodes || transcode == nullptr);
  }
  uint32_t width() const;  // bits of what a code stands for
  // Whether the supers are zeros: of the codes' bits, of several rows in a word. They make biases of
  // -zero * scale.
  bool has_zeros() const { return levels.bits == 0 && planes[kSupers].bits != 0; }
  // Whether weights are floats, one by one: numbers of the matrix's dtype or E4M3 ones. Others are
  // integers.
  bool has_floats() const { return bits == 0 || planes[kCodes].float8 != Float8::none; }
};

std::span<const Format> formats();
const Format& find_format(std::string_view name);  // throws FormatError: none has the name
const Format& plain(DType dtype);                  // f32, f16, bf16

struct Shape {  // of one stored matrix
  uint32_t out = 0;
  uint32_t in = 0;
  const Format* format = &plain(DType::f32);
  uint32_t group = 0;        // columns that a scale covers, or more; 0: no scales
  DType dtype = DType::f32;  // of numbers: of plain weights, of scales and biases

  uint32_t bits() const { return format->bits; }
  uint64_t row_bytes(size_t plane = kCodes) const;
  uint64_t plane_bytes(size_t plane) const;
  uint64_t nbytes() const;                  // of all planes
  uint64_t file_bytes(size_t plane) const;  // of the plane's tensor in a file
};

// Where planes lie that follow each other, each from a multiple of `alignment` on, and their end.
std::array<uint64_t, kPlanes + 1> place_planes(const Shape& shape, uint64_t alignment);

struct Matrix {
  Shape shape;
  Planes<const std::byte*> planes{};  // null: the format has none
};

// The matrix whose planes lie one behind the other from `data` on.
Matrix contiguous(const Shape& shape, const std::byte* data);

// Makes planes, which place_planes places from `data` on, of the matrix' blocks from number `first`
// on. Returns what came of them, as a matrix of one row.
Matrix transcode(const Shape& shape, std::span<const std::byte> blocks, uint64_t first,
                 std::byte* data, uint64_t alignment);

// Throws FormatError that names the tensor: an empty matrix, a group that its format has not, a
// format that asks for what no kernel does.
void check_shape(const Shape& shape, const std::string& name);

bool all_finite(const std::byte* data, uint64_t count, DType dtype);
// Whether a piece of a plane holds no NaN or infinity, where it is to be checked.
bool all_finite(const Shape& shape, size_t plane, std::span<const std::byte> piece);
bool all_finite(const Matrix& matrix);
float widen_e4m3(std::byte number);  // a finite one
// Of finite numbers.
void to_float(const std::byte* data, uint64_t count, DType dtype, float* out);

}  // namespace moeflux::quant
