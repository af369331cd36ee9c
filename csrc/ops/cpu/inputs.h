// How activations are kept for products with weights of one format: sizes and layouts of the
// records that Kernels::prepare writes and matvec, pack and gemm read.
//
// Quantised weights. A record is `digits` rows of int8, then a step and a sum for each group and,
// of centred products, the sum of the codes as two integers:
//   c = sum over digits of digit[d] * 256^(digits - 1 - d), balanced digits in -128..127
//   x ~ step * c;  sum = step * (sum of c);  256 * high + low = sum of c
// One digit is int8 precision. Two hold 16 bits relative to the largest of the group, more than the
// 8 of bfloat16; three hold 24, float32's own precision for the group's large elements.
// The columns of a row are permuted as the vector registers see the packed codes (prepare.inc).
// Plain weights. A record is the row itself, as f32 or bf16.
#pragma once
#include <cstdint>

#include "base/format.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

inline constexpr uint32_t kMaxVectorBytes = 64;
inline constexpr uint32_t kChains = 16;       // of the outer sum
inline constexpr uint32_t kBlockTokens = 16;  // of a packed block

struct InputFormat {
  uint32_t planes = 0;      // codes a byte of weights: 4, 2 or 1 (also for 3, 5, 6 bits); 0: plain
  uint32_t group = 0;       // columns a step
  uint32_t digits = 0;      // 1, 2 or 3
  bool centred = false;     // integer sums are kept, too (kernels.h: m)
  bool plain_bf16 = false;  // plain weights: keep x as bf16
  bool round_bf16 = false;  // plain weights: round x to bf16
  bool operator==(const InputFormat&) const = default;

  uint32_t row_bytes(uint32_t in) const {  // of one digit: whole vectors
    const uint32_t unit = kMaxVectorBytes * planes;
    return (in + unit - 1) / unit * unit;
  }
  uint32_t n_steps(uint32_t in) const {  // groups, in whole rounds of the chains
    return (in / group + kChains - 1) / kChains * kChains;
  }
  uint32_t group_words() const { return centred ? 4 : 2; }  // step, sum (, high, low)
};

constexpr uint32_t code_planes(uint32_t bits) {
  return bits == 2 ? 4 : bits == 4 ? 2 : 1;
}

// Of the matrices that read what their own stage has made (attention, delta net, SwiGLU) rather
// than a normed row: values of a wider range, which 8 bits a group would cost 1 % of the top-1
// choices of the demo model (benchmarks/precision.py).
constexpr Precision inner_precision(Precision precision) {
  return precision == Precision::int8 ? Precision::bfloat16 : precision;
}

inline uint64_t input_bytes(const InputFormat& format, uint32_t in) {
  const uint64_t bytes = format.planes == 0
                             ? uint64_t(in) * (format.plain_bf16 ? 2 : 4)
                             : uint64_t(format.digits) * format.row_bytes(in) +
                                   uint64_t(format.group_words()) * format.n_steps(in) * 4;
  return (bytes + kMaxVectorBytes - 1) / kMaxVectorBytes * kMaxVectorBytes;
}
// (group, digit, group / 4, kBlockTokens, 4) int8, then the groups' words (word, group,
// kBlockTokens).
inline uint64_t packed_bytes(const InputFormat& format, uint32_t in) {
  return uint64_t(kBlockTokens) *
         (uint64_t(format.digits) * in + uint64_t(format.group_words()) * (in / format.group) * 4);
}

}  // namespace moeflux::ops::cpu
