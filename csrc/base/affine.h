// MLX's affine quantiser: numbers into codes, a scale and a bias for each group of columns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace moeflux::quant {

// Quantises `values`, whole groups of 32, 64 or 128, to codes of 2, 3, 4, 5, 6 or 8 bits.
// `codes` gets the bit stream, values.size() * bits / 8 bytes; `scales` and `biases` a number a
// group. False where a number, or what a group needs, is not finite: what was written means nothing.
bool quantize(std::span<const float> values, uint32_t bits, uint32_t group, std::byte* codes,
              float* scales, float* biases);

}  // namespace moeflux::quant
