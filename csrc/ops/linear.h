// What layers are made of beside their mixers: stored matrices, and networks and routers of them.
//
// fields(visit) names all that a part is made of, here and nowhere else. A visitor has three verbs:
// number(name, value), vector(name, data, count) and matrix(name, linear, out, in), the last two
// with kOptional where a model may do without, and d_model. Names are those of a spec; a matrix's
// size of 0 is any.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "base/format.h"

namespace moeflux::ops {

inline constexpr bool kOptional = true;

struct Linear {
  quant::Matrix weight;
  const float* bias = nullptr;  // (out), or none
  uint32_t out() const { return weight.shape.out; }
  uint32_t in() const { return weight.shape.in; }
};

struct GatedFfn {  // down(silu(gate x) * (up x))
  Linear gate, up, down;
  static const std::array<Linear GatedFfn::*, 3> kMatrices;
  static constexpr std::array kNames = {"gate", "up", "down"};  // of kMatrices

  template <class V>
  void fields(V&& visit) {
    visit.matrix(kNames[0], gate, gate.out(), visit.d_model);  // its width is the gate's
    visit.matrix(kNames[1], up, gate.out(), visit.d_model);
    visit.matrix(kNames[2], down, visit.d_model, gate.out());
  }
};
inline constexpr std::array<Linear GatedFfn::*, 3> GatedFfn::kMatrices = {
    &GatedFfn::gate, &GatedFfn::up, &GatedFfn::down};

struct Router {
  Linear gate;  // (n_experts, d_model)
  uint32_t n_experts = 0, top_k = 0;
  bool normalise = true;  // chosen probabilities sum to one

  template <class V>
  void fields(V&& visit) {
    visit.number("n_experts", n_experts);
    visit.number("top_k", top_k);
    visit.number("normalise", normalise);
    visit.matrix("router", gate, n_experts, visit.d_model);
  }
};

struct Head {                   // linear(norm(x))
  const float* norm = nullptr;  // (d_model)
  float eps = 1e-6f;
  Linear linear;  // (vocab, d_model)
};

}  // namespace moeflux::ops
