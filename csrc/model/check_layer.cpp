#include "model/check_layer.h"

#include "base/error.h"

namespace moeflux::model {

namespace {

class Checker {
 public:
  Checker(std::string place, const WeightReader& stored)
      : place_(std::move(place)), stored_(stored) {}

  void require(bool holds, const auto&... what) const {
    if (!holds) throw FormatError("[model::check_layer] expected ", what..., place_);
  }

  void matrix(const char* role, const quant::Shape& shape, const void* data, uint64_t out,
              uint64_t in) const {
    if (shape.out == out && shape.in == in) return;
    const WeightReader::Stored* found = stored_.find(data);
    throw FormatError("[model::check_layer] ", role, ": expected (", out, ", ", in, "), found (",
                      shape.out, ", ", shape.in, ")",
                      found ? cat(" (tensor ", found->name, ")") : place_);
  }
  void matrix(const char* role, const ops::Linear& linear, uint64_t out, uint64_t in) const {
    matrix(role, linear.weight.shape, linear.weight.planes[quant::kCodes], out, in);
  }
  void optional(const char* role, const ops::Linear& linear, uint64_t out, uint64_t in) const {
    if (linear.out() != 0) matrix(role, linear, out, in);
  }

  void vector(const char* role, const float* data, uint64_t count) const {
    const WeightReader::Stored* found = stored_.find(data);
    if (found != nullptr && found->in == count) return;
    throw FormatError("[model::check_layer] ", role, ": expected ", count, " numbers, found ",
                      found ? cat(found->in, " (tensor ", found->name, ")") : "none" + place_);
  }
  void optional(const char* role, const float* data, uint64_t count) const {
    if (data != nullptr) vector(role, data, count);
  }

  void ffn(const ops::GatedFfn& w, uint64_t d_model) const {
    const uint64_t width = w.gate.out();
    matrix("gate", w.gate, width, d_model);
    matrix("up", w.up, width, d_model);
    matrix("down", w.down, d_model, width);
  }

 private:
  std::string place_;
  const WeightReader& stored_;
};

void check(const ops::Attention& w, uint64_t d_model, uint32_t n_frequencies, const Checker& c) {
  const uint64_t heads = uint64_t(w.n_heads) * w.head_dim, kv = uint64_t(w.n_kv_heads) * w.head_dim;
  c.require(heads != 0 && kv != 0, "heads of at least one number");
  c.require(w.n_heads % w.n_kv_heads == 0, "key heads that divide ", w.n_heads, " heads, found ",
            w.n_kv_heads);
  c.require(
      w.rotary_dim % 2 == 0 && w.rotary_dim <= w.head_dim && w.rotary_dim / 2 <= n_frequencies,
      "an even rotary width up to ", w.head_dim, " and ", n_frequencies, " frequencies, found ",
      w.rotary_dim);
  c.vector("norm", w.norm, d_model);
  c.matrix("q", w.q, heads, d_model);
  c.matrix("k", w.k, kv, d_model);
  c.matrix("v", w.v, kv, d_model);
  c.matrix("o", w.o, d_model, heads);
  c.optional("gate", w.gate, heads, d_model);
  c.optional("q_norm", w.q_norm, w.head_dim);
  c.optional("k_norm", w.k_norm, w.head_dim);
}

void check(const ops::DeltaNet& w, uint64_t d_model, const Checker& c) {
  const uint64_t keys = uint64_t(w.n_key_heads) * w.key_dim,
                 values = uint64_t(w.n_value_heads) * w.value_dim, channels = 2 * keys + values;
  c.require(keys != 0 && values != 0 && w.conv_width != 0,
            "heads and a convolution of at least one number");
  c.require(w.n_value_heads % w.n_key_heads == 0, "key heads that divide ", w.n_value_heads,
            " value heads, found ", w.n_key_heads);
  c.vector("norm", w.norm, d_model);
  c.matrix("qkv", w.qkv, channels, d_model);
  c.matrix("z", w.z, values, d_model);
  c.matrix("b", w.b, w.n_value_heads, d_model);
  c.matrix("a", w.a, w.n_value_heads, d_model);
  c.matrix("out", w.out, d_model, values);
  c.vector("conv", w.conv, channels * w.conv_width);
  c.vector("a_log", w.a_log, w.n_value_heads);
  c.vector("dt_bias", w.dt_bias, w.n_value_heads);
  c.vector("out_norm", w.out_norm, w.value_dim);
}

void check(const Moe& w, uint64_t d_model, const Checker& c) {
  const uint32_t n = w.router.n_experts, k = w.router.top_k;
  c.require(k >= 1 && k <= n, "a top_k of 1..", n, ", found ", k);
  c.matrix("router", w.router.gate, n, d_model);
  const uint64_t width = w.experts.ffn.gate.out();
  c.matrix("experts.gate", w.experts.ffn.gate, width, d_model);
  c.matrix("experts.up", w.experts.ffn.up, width, d_model);
  c.matrix("experts.down", w.experts.ffn.down, d_model, width);
  if (!w.has_shared) return;
  c.ffn(w.shared, d_model);
  c.optional("shared_gate", w.shared_gate, 1, d_model);
}

}  // namespace

void check_layer(const Layer& layer, size_t index, const Spec& spec, uint32_t n_frequencies,
                 const WeightReader& stored) {
  const Checker c(cat(" (layer ", index, ")"), stored);
  if (layer.mixer == Mixer::attention)
    check(layer.attention, spec.d_model, n_frequencies, c);
  else
    check(layer.delta_net, spec.d_model, c);
  c.vector("ffn_norm", layer.ffn_norm, spec.d_model);
  if (layer.is_moe)
    check(layer.moe, spec.d_model, c);
  else
    c.ffn(layer.dense, spec.d_model);
}

void check_ends(const Weights& weights, const WeightReader& stored) {
  const Spec& spec = weights.spec;
  const Checker c("", stored);
  c.require(spec.vocab != 0 && spec.d_model != 0 && spec.chunk != 0,
            "a vocabulary, a width and a chunk of at least one");
  c.matrix("embed", ops::Linear{weights.embed}, spec.vocab, spec.d_model);
  c.vector("final_norm", weights.head.norm, spec.d_model);
  c.matrix("head", weights.head.linear, spec.vocab, spec.d_model);
}

}  // namespace moeflux::model
