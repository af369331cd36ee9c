// The inner loops of the CPU ops, compiled once per instruction set (kernels.cmake) and chosen
// at run time. Each result depends only on its own operands and their order: not on how many rows,
// tokens or threads are computed beside it.
//
// Products with quantised weights. A row x of activations becomes, for each group of columns that
// shares a (scale, bias) of the weights, integers c with one step s, x ~ s * c (inputs.h). With
// weights w = scale * q + bias,
//     w . x = sum over groups g of  scale_g * s_g * sum_i (q_i - m) c_i
//                                   + (bias_g + m scale_g) * s_g * sum_i c_i.
// With three digits, m = 2^(bits - 1) keeps the two terms from cancelling. With fewer digits m = 0:
// rounding x costs more than the cancellation. Where the format has a zero instead of biases, w =
// scale * (q - zero), m = zero and the second term is none; q is what the format's table has for a
// code. The inner sums are integers and exact, so that
// instruction set, blocking, and order of columns leave no trace; the outer sum is 16 chains (group
// g in chain g mod 16, ascending), then a tree. matvec and gemm are two ways to the same bits.
// Weights are unpacked in registers or a piece at a time in the cache: a few KiB of a row's codes, a
// tile for gemm. They are never expanded to memory.
//
// Products with plain weights (bf16, f16, f32): 16 chains by column (32 with bf16 instructions),
// then a tree.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/format.h"
#include "ops/cpu/attend.h"
#include "ops/cpu/delta_rule.h"
#include "ops/cpu/inputs.h"
#include "ops/cpu/state_space.h"

namespace moeflux::ops::cpu {

using quant::kCodes, quant::kScales, quant::kSupers;

struct Kernels {
  const char* name;
  bool bf16_products;  // plain bf16 weights meet activations kept as bf16 (InputFormat::plain_bf16)
  uint32_t gemm_from;  // tokens from which gemm is the faster way

  // One row x (in) of activations into a record of input_bytes(format, in).
  void (*prepare)(const InputFormat& format, const float* x, uint32_t in, std::byte* record);
  // y[t][row] = w[row] . x[t] for rows [begin, end), t < n; records[t] prepared for w.
  void (*matvec)(const quant::Matrix& w, const InputFormat& format, uint32_t begin, uint32_t end,
                 const std::byte* const* records, float* const* y, uint32_t n);
  // 16 records (the last ones may be null: zeros) into packed_bytes(format, in).
  void (*pack)(const InputFormat& format, uint32_t in, const std::byte* const* records,
               std::byte* packed);
  // As matvec, for quantised weights; `packed` holds ceil(n / 16) blocks, scratch what gemm_scratch
  // says.
  void (*gemm)(const quant::Matrix& w, const InputFormat& format, uint32_t begin, uint32_t end,
               const std::byte* packed, float* const* y, uint32_t n, std::byte* scratch);
  uint64_t (*gemm_scratch)(uint32_t in, uint32_t group);                  // bytes
  void (*dequant_row)(const quant::Matrix& w, uint32_t row, float* out);  // out (in)

  // out = x * rsqrt(mean(x^2) + eps) * weight; weight (dim); in place allowed.
  void (*rms_norm)(const float* x, const float* weight, uint32_t dim, float eps, float* out);
  void (*l2_norm)(float* x, uint32_t dim, float eps, float scale);  // x * rsqrt(sum + eps) * scale
  void (*swiglu)(const float* gate, const float* up, uint32_t n, float* out);  // silu(gate) * up
  // (up + up_add) * gate * sigmoid(alpha * gate), gate <= limit, up within +-limit (> 0).
  void (*clamped_glu)(const float* gate, const float* up, uint32_t n, float limit, float alpha,
                      float up_add, float* out);
  // gelu(gate) * up, in its form with tanh.
  void (*geglu)(const float* gate, const float* up, uint32_t n, float* out);
  void (*relu2)(const float* x, uint32_t n, float* out);  // max(x, 0)^2
  void (*silu)(float* x, uint32_t n);
  void (*sigmoid_gate)(float* x, const float* gate, uint32_t n);  // x *= sigmoid(gate)
  void (*softmax)(float* x, uint32_t n);
  void (*axpy)(float a, const float* x, float* y, uint32_t n);                      // y += a * x
  void (*rotate)(float* x, const float* cosine, const float* sine, uint32_t half);  // RoPE
  // One position of one key head into its block of the cache, at place `lane`.
  void (*cache_put)(CacheType type, const float* key, const float* value, uint32_t dim,
                    uint32_t lane, std::byte* keys, std::byte* values);
  void (*attend)(const AttendSpan& span);
  void (*attend_merge)(const float* from, uint32_t dim, float* state);
  void (*convolve)(const ConvRows& rows);
  void (*delta_rule)(const DeltaRule& rule);
  void (*state_space)(const StateSpace& space);
};

// How activations are kept for a matrix under a precision, on these kernels.
InputFormat input_format(const quant::Shape& w, Precision precision, const Kernels& kernels);

const Kernels* kernels_portable();  // never null

// The best this machine runs, or the best of the family that `forced` names ("avx512", "avx2",
// "neon", "portable"). Throws FormatError when that is unknown or not available here.
const Kernels& select_kernels(const char* forced);

// Every table that this machine runs, best first.
std::vector<const Kernels*> available_kernels();

}  // namespace moeflux::ops::cpu
