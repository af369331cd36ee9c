// The inner loops of the CPU ops, compiled once per instruction set from kernels.inc and chosen at
// run time. Each result depends only on its own operands and their order: not on how many rows,
// tokens or threads are computed beside it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/quant.h"

namespace moeflux::ops::cpu {

inline constexpr uint32_t kRowsPerBlock = 4;  // weight rows expanded at a time into scratch

struct Kernels {
  const char* name;
  // y[t][row] = w[row] . x[t] for rows [row_begin, row_end), t < n. scratch: kRowsPerBlock * in.
  void (*linear)(const quant::Matrix& w, uint32_t row_begin, uint32_t row_end,
                 const float* const* x, float* const* y, uint32_t n, float* scratch);
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
const Kernels* kernels_avx2();  // null where it was not built
const Kernels* kernels_avx512();

// The best this machine runs, or the one that `forced` names ("avx512", "avx2", "portable").
// Throws FormatError when that is unknown or not available here.
const Kernels& select_kernels(const char* forced);

}  // namespace moeflux::ops::cpu
