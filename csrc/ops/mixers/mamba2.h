// Mamba-2: a short convolution and a state space whose decay is a number a head and token.
//   [u | B | C] = silu(conv(inputs(normed))), dt = softplus(steps(normed) + dt_bias)
//   S = exp(-exp(a_log) dt) S + (dt u) B^T,  y = S C + skip u,  out(norm(y * silu(z(normed))))
#pragma once
#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct Mamba2 {
  static constexpr char kKind[] = "mamba2";
  Linear inputs;                     // (channels, d_model): all u, all B, all C
  Linear z;                          // (values, d_model)
  Linear steps;                      // (n_heads, d_model)
  Linear out;                        // (d_model, values)
  const float* conv = nullptr;       // (channels, conv_width)
  const float* conv_bias = nullptr;  // (channels), or none
  const float* a_log = nullptr;      // (n_heads)
  const float* dt_bias = nullptr;    // (n_heads)
  const float* skip = nullptr;       // (n_heads)
  const float* out_norm = nullptr;   // (values); the norm is over each group's
  uint32_t n_heads = 0, head_dim = 0, conv_width = 0;
  uint32_t n_groups = 0, state_dim = 0;  // of B and of C; consecutive heads share a group
  float eps = 1e-6f;
  uint32_t values() const { return n_heads * head_dim; }
  uint32_t channels() const { return values() + 2 * n_groups * state_dim; }

  template <class V>
  void fields(V&& visit) {
    visit.number("eps", eps);
    visit.number("n_heads", n_heads);
    visit.number("head_dim", head_dim);
    visit.number("n_groups", n_groups);
    visit.number("state_dim", state_dim);
    visit.number("conv_width", conv_width);
    const uint64_t values = uint64_t(n_heads) * head_dim,
                   channels = values + 2 * uint64_t(n_groups) * state_dim;
    visit.matrix("inputs", inputs, channels, visit.d_model);
    visit.matrix("z", z, values, visit.d_model);
    visit.matrix("steps", steps, n_heads, visit.d_model);
    visit.matrix("out", out, visit.d_model, values);
    visit.vector("conv", conv, channels * conv_width);
    visit.vector("conv_bias", conv_bias, channels, kOptional);
    visit.vector("a_log", a_log, n_heads);
    visit.vector("dt_bias", dt_bias, n_heads);
    visit.vector("skip", skip, n_heads);
    visit.vector("out_norm", out_norm, values);
  }
  std::string fault() const {
    if (n_heads == 0 || head_dim == 0 || n_groups == 0 || state_dim == 0 || conv_width == 0)
      return "heads, a state and a convolution of at least one number";
    if (n_heads % n_groups) return cat("groups that divide ", n_heads, " heads, found ", n_groups);
    return {};
  }
  CacheShape cache() const { return {}; }
  // (n_heads, head_dim, state_dim), then (conv_width - 1, channels): the last inputs, oldest first.
  uint64_t recurrent_floats() const { return uint64_t(values()) * state_dim; }
  uint64_t state_floats() const {
    return recurrent_floats() + uint64_t(conv_width - 1) * channels();
  }
};

// x += w(normed): ops/cpu/mixers/mamba2.cpp, ops/gpu/mixers/mamba2.cpp.
void mix(cpu::CpuOps& ops, const Mamba2& w, Segments segments, const Rows& normed, float* x);
void mix(gpu::GpuOps& ops, const Mamba2& w, Segments segments, const Rows& normed, float* x);

}  // namespace moeflux::ops
