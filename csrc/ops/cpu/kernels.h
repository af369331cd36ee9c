// The inner loops of the CPU ops, compiled once per instruction set (kernels_<isa>.cpp) and chosen
// at run time. Each result depends only on its own operands and their order: not on how many rows,
// tokens or threads are computed beside it.
//
// Products with quantised weights. A row x of activations becomes, for each group of columns that
// shares a (scale, bias) of the weights, integers c with one step s, x ~ s * c (inputs.h). With
// weights w = scale * q + bias,
//     w . x = sum over groups g of  scale_g * (s_g * sum_i q_i c_i)  +  bias_g * (s_g * sum_i c_i).
// The inner sums are integers and exact, so that instruction set, blocking, and order of columns
// leave no trace; the outer sum is 16 chains (group g in chain g mod 16, ascending), then a tree.
// matvec and gemm are two ways to the same bits. Weights are unpacked in registers or, by gemm, a
// cache-sized tile at a time; they are never expanded to memory.
//
// Products with plain weights (bf16, f16, f32): 16 chains by column (32 with bf16 instructions),
// then a tree.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/quant.h"
#include "ops/cpu/inputs.h"

namespace moeflux::ops::cpu {

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
  // As matvec, for quantised weights; `packed` holds ceil(n / 16) blocks, scratch gemm_scratch(in).
  void (*gemm)(const quant::Matrix& w, const InputFormat& format, uint32_t begin, uint32_t end,
               const std::byte* packed, float* const* y, uint32_t n, std::byte* scratch);
  uint64_t (*gemm_scratch)(uint32_t in);                                  // bytes
  void (*dequant_row)(const quant::Matrix& w, uint32_t row, float* out);  // out (in)

  // out = x * rsqrt(mean(x^2) + eps) * weight; weight (dim); in place allowed.
  void (*rms_norm)(const float* x, const float* weight, uint32_t dim, float eps, float* out);
  void (*l2_norm)(float* x, uint32_t dim, float eps, float scale);  // x * rsqrt(sum + eps) * scale
  void (*swiglu)(const float* gate, const float* up, uint32_t n, float* out);  // silu(gate) * up
  void (*silu)(float* x, uint32_t n);
  void (*sigmoid_gate)(float* x, const float* gate, uint32_t n);  // x *= sigmoid(gate)
  void (*softmax)(float* x, uint32_t n);
  void (*axpy)(float a, const float* x, float* y, uint32_t n);  // y += a * x
  // One query head over `len` cached positions; rows of k and v are `stride` floats apart.
  void (*attend)(const float* q, const float* k, const float* v, size_t stride, uint32_t len,
                 uint32_t dim, float scale, float* scores, float* out);
  // One value head of the gated delta rule: S (dv, dk); in == out allowed.
  //   S = g*S; delta = beta*(v - S k); S += delta k^T; out = S q
  void (*delta_step)(const float* state_in, float* state_out, const float* q, const float* k,
                     const float* v, float g, float beta, uint32_t dk, uint32_t dv, float* out);
};

const Kernels& kernels_portable();
// Null where the compiler could not build them.
const Kernels* kernels_avx2();
const Kernels* kernels_avx2_vnni();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_vnni();
const Kernels* kernels_avx512_bf16();  // and VNNI, VBMI
const Kernels* kernels_amx();          // and all of these

// The best this machine runs, or the best of the family that `forced` names ("avx512", "avx2",
// "portable"). Throws FormatError when that is unknown or not available here.
const Kernels& select_kernels(const char* forced);

// Every table that this machine runs, best first.
std::vector<const Kernels*> available_kernels();

}  // namespace moeflux::ops::cpu
