// The shape of a stored matrix and where its parts lie. What reads one: ops/cpu's inner loops, the
// shaders, model/weight_reader. Affine (MLX): a row is a little-endian bit stream of codes; value = scale * code + bias with one
// (scale, bias) pair per `group` consecutive columns. Source: mlx-lm's save format
// (docs/models.md).
#pragma once
#include <cstddef>
#include <cstdint>

namespace moeflux::quant {

enum class DType : uint8_t { f32, f16, bf16 };

constexpr uint64_t dtype_bytes(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}

struct Shape {  // of one stored matrix, [out, in]
  uint32_t out = 0;
  uint32_t in = 0;
  uint32_t bits = 0;         // 2, 3, 4, 5, 6, 8: affine; 0: plain `dtype`
  uint32_t group = 0;        // columns per (scale, bias); 0 when plain
  DType dtype = DType::f32;  // of the weights when plain, of scales and biases when affine

  uint64_t row_bytes() const {
    return bits ? uint64_t(in) * bits / 8 : uint64_t(in) * dtype_bytes(dtype);
  }
  uint64_t scale_row_bytes() const { return bits ? in / group * dtype_bytes(dtype) : 0; }
};

struct Matrix : Shape {
  const std::byte* weight = nullptr;  // (out, row_bytes)
  const std::byte* scales = nullptr;  // (out, in / group)
  const std::byte* biases = nullptr;  // (out, in / group)
};

}  // namespace moeflux::quant
