// A gated delta net: a short convolution and a recurrent state.
#pragma once
#include "base/cat.h"
#include "ops/linear.h"
#include "ops/rows.h"

namespace moeflux::ops {

struct DeltaNet {
  static constexpr char kKind[] = "delta_net";
  Linear qkv;  // (channels, d_model): all q, all k, all v
  Linear z, b, a, out;
  const float* conv = nullptr;      // (channels, conv_width)
  const float* a_log = nullptr;     // (n_value_heads)
  const float* dt_bias = nullptr;   // (n_value_heads)
  const float* out_norm = nullptr;  // (value_dim)
  uint32_t n_key_heads = 0, n_value_heads = 0, key_dim = 0, value_dim = 0, conv_width = 0;
  float eps = 1e-6f;
  uint32_t channels() const { return 2 * n_key_heads * key_dim + n_value_heads * value_dim; }

  template <class V>
  void fields(V&& visit) {
    visit.number("eps", eps);
    visit.number("n_key_heads", n_key_heads);
    visit.number("n_value_heads", n_value_heads);
    visit.number("key_dim", key_dim);
    visit.number("value_dim", value_dim);
    visit.number("conv_width", conv_width);
    const uint64_t values = uint64_t(n_value_heads) * value_dim,
                   channels = 2 * uint64_t(n_key_heads) * key_dim + values;
    visit.matrix("qkv", qkv, channels, visit.d_model);
    visit.matrix("z", z, values, visit.d_model);
    visit.matrix("b", b, n_value_heads, visit.d_model);
    visit.matrix("a", a, n_value_heads, visit.d_model);
    visit.matrix("out", out, visit.d_model, values);
    visit.vector("conv", conv, channels * conv_width);
    visit.vector("a_log", a_log, n_value_heads);
    visit.vector("dt_bias", dt_bias, n_value_heads);
    visit.vector("out_norm", out_norm, value_dim);
  }
  std::string fault() const {
    if (n_key_heads == 0 || key_dim == 0 || n_value_heads == 0 || value_dim == 0 || conv_width == 0)
      return "heads and a convolution of at least one number";
    if (n_value_heads % n_key_heads)
      return cat("key heads that divide ", n_value_heads, " value heads, found ", n_key_heads);
    return {};
  }
  CacheShape cache() const { return {}; }
  // (n_value_heads, value_dim, key_dim), then (conv_width - 1, channels): the last inputs, oldest
  // first.
  uint64_t recurrent_floats() const { return uint64_t(n_value_heads) * value_dim * key_dim; }
  uint64_t state_floats() const {
    return recurrent_floats() + uint64_t(conv_width - 1) * channels();
  }
};

// x += w(normed): ops/cpu/mixers/delta_net.cpp, ops/gpu/mixers/delta_net.cpp.
void mix(cpu::CpuOps& ops, const DeltaNet& w, Segments segments, const Rows& normed, float* x);
void mix(gpu::GpuOps& ops, const DeltaNet& w, Segments segments, const Rows& normed, float* x);

}  // namespace moeflux::ops
