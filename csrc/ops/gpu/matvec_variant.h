// Which of the contract's kernels of one matvec to take: a pure function of device, shape class
// and bits, looked up in one table (matvec_variants.inc). For the doctor; models take qmatvec_*.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace moeflux::ops {

// Classes of W (out_dim, in_dim), by what bounds the kernels.
enum class MatvecShape : uint8_t {
  few_rows,    // out_dim < kFewRows: 8 rows a threadgroup leave cores of a large GPU idle
  short_rows,  // in_dim < kShortRows: a SIMD group has few words of a row to share
  large,       // all else: memory bandwidth
};
inline constexpr uint64_t kFewRows = 1024;  // 128 threadgroups of 8 rows: 3 a core of a 40-core GPU
inline constexpr uint64_t kShortRows = 1024;  // 4 steps of a SIMD group: 32 lanes x 8 nibbles

constexpr MatvecShape matvec_shape(uint64_t out_dim, uint64_t in_dim) {
  if (out_dim < kFewRows) return MatvecShape::few_rows;
  return in_dim < kShortRows ? MatvecShape::short_rows : MatvecShape::large;
}
std::string_view shape_name(MatvecShape shape);

struct MatvecVariant {
  std::string_view device;  // what the device's name begins with; empty: any
  MatvecShape shape;
  uint32_t bits;
  std::string_view kernel;
};
std::span<const MatvecVariant> matvec_variants();

// The kernel of the first row that fits. Throws FormatError when no row does.
std::string_view matvec_variant(std::string_view device_name, uint64_t out_dim, uint64_t in_dim,
                                uint32_t bits,
                                std::span<const MatvecVariant> table = matvec_variants());

}  // namespace moeflux::ops
