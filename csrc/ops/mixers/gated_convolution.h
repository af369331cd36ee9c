// A short convolution over positions, by channel, between two gates, as LFM2 has it:
//   out(c * conv(b * u)), [b | c | u] = inputs(normed).
#pragma once
#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct GatedConvolution {
  static constexpr char kKind[] = "gated_convolution";
  Linear inputs;                     // (3 * d_model, d_model)
  Linear out;                        // (d_model, d_model)
  const float* conv = nullptr;       // (d_model, conv_width)
  const float* conv_bias = nullptr;  // (d_model), or none
  uint32_t conv_width = 0;

  template <class V>
  void fields(V&& visit) {
    visit.number("conv_width", conv_width);
    visit.matrix("inputs", inputs, 3 * uint64_t(visit.d_model), visit.d_model);
    visit.matrix("out", out, visit.d_model, visit.d_model);
    visit.vector("conv", conv, uint64_t(visit.d_model) * conv_width);
    visit.vector("conv_bias", conv_bias, visit.d_model, kOptional);
  }
  std::string fault() const {
    if (conv_width < 2) return cat("a convolution of at least two positions, found ", conv_width);
    return {};
  }
  CacheShape cache() const { return {}; }
  // (conv_width - 1, d_model): the last b * u, oldest first.
  uint64_t state_floats() const { return uint64_t(conv_width - 1) * out.in(); }
};

// x += w(normed): ops/cpu/mixers/gated_convolution.cpp, ops/gpu/mixers/gated_convolution.cpp.
void mix(cpu::CpuOps& ops, const GatedConvolution& w, Segments segments, const Rows& normed,
         float* x);
void mix(gpu::GpuOps& ops, const GatedConvolution& w, Segments segments, const Rows& normed,
         float* x);

}  // namespace moeflux::ops
