// A short convolution over positions, by channel, as LFM2 has it.
#pragma once
#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct ShortConvolution {
  static constexpr char kKind[] = "short_convolution";
  const float* conv = nullptr;  // (d_model, width)
  Linear out;                   // (d_model, d_model)
  uint32_t width = 0;

  template <class V>
  void fields(V&& visit) {
    visit.number("width", width);
    visit.vector("conv", conv, uint64_t(visit.d_model) * width);
    visit.matrix("out", out, visit.d_model, visit.d_model);
  }
  std::string fault() const {
    return width < 2 ? cat("a convolution of at least two positions, found ", width) : "";
  }
  CacheShape cache() const { return {}; }
  uint64_t state_floats() const { return uint64_t(width - 1) * out.in(); }  // the last inputs
};

// x += out(silu(conv(normed)))
void mix(cpu::CpuOps& ops, const ShortConvolution& w, Segments segments, const Rows& normed,
         float* x);
void mix(gpu::GpuOps& ops, const ShortConvolution& w, Segments segments, const Rows& normed,
         float* x);

}  // namespace moeflux::ops
