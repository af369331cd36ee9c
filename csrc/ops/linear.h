// What layers are made of beside their mixers: stored matrices, and networks and routers of them.
//
// fields(visit) names all that a part is made of, here and nowhere else. A visitor has five verbs:
// number(name, value), choice(name, value, names of all values), sliced(name, data, slices),
// vector(name, data, count) and matrix(name, linear, out, in), the last two with kOptional where a
// model may do without, and d_model. Names are those of a spec; a matrix's size of 0 is any.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/cat.h"
#include "base/format.h"

namespace moeflux::ops {

inline constexpr bool kOptional = true;

struct Linear {
  quant::Matrix weight;
  const float* bias = nullptr;  // (out), or none
  uint32_t out() const { return weight.shape.out; }
  uint32_t in() const { return weight.shape.in; }
};

// `n` slices of a vector that has the rows of all `parts`, `columns` numbers each.
struct Slices {
  uint64_t n;
  std::vector<uint64_t> parts;
  uint64_t columns;
  uint64_t rows() const { return std::accumulate(parts.begin(), parts.end(), uint64_t{0}); }
  uint64_t count() const { return n * rows() * columns; }
};

// What a network makes of its gate: x * sigmoid(x), GELU in its form with tanh, or max(x, 0)^2.
enum class Unit : uint8_t { silu, gelu, relu2 };
inline constexpr std::array kUnitNames = {"silu", "gelu", "relu2"};

// down(g * sigmoid(alpha * g) * (u + up_add)), g = min(gate x, limit), u = up x within +-limit: as
// they are by default, SwiGLU. Of the unit gelu down(gelu(gate x) * (up x)), of relu2, which has no
// `up`, down(relu2(gate x)).
struct GatedFfn {
  Linear gate, up, down;
  Unit unit = Unit::silu;
  float limit = 0;  // 0: none
  float alpha = 1, up_add = 0;
  bool interleaved = false;  // rows of gate are in turns those of gate and of up; `up` is empty
  uint32_t width() const { return interleaved ? gate.out() / 2 : gate.out(); }
  bool has_up() const { return !interleaved && unit != Unit::relu2; }
  bool is_plain() const { return limit == 0 && alpha == 1 && up_add == 0; }
  bool is_swiglu() const { return unit == Unit::silu && is_plain(); }
  static const std::array<Linear GatedFfn::*, 3> kMatrices;
  static constexpr std::array kNames = {"gate", "up", "down"};  // of kMatrices

  template <class V>
  void fields(V&& visit) {
    visit.choice("unit", unit, kUnitNames);
    visit.number("limit", limit);
    visit.number("alpha", alpha);
    visit.number("up_add", up_add);
    visit.number("interleaved", interleaved);
    visit.matrix(kNames[0], gate, gate.out(), visit.d_model);  // which says the width
    if (has_up()) visit.matrix(kNames[1], up, gate.out(), visit.d_model);
    visit.matrix(kNames[2], down, visit.d_model, width());
  }
  std::string fault() const {  // as a mixer's
    if (!(limit >= 0 && std::isfinite(limit))) return cat("a finite limit from 0, found ", limit);
    if (!std::isfinite(alpha) || !std::isfinite(up_add))
      return cat("finite alpha and up_add, found ", alpha, " and ", up_add);
    if (unit != Unit::silu && !is_plain())
      return cat("a unit of ", kUnitNames[size_t(unit)], " without limit, alpha and up_add");
    if (unit == Unit::relu2 && interleaved) return "a unit of relu2 without rows of up";
    if (interleaved && gate.out() % 2) return cat("an even number of rows, found ", gate.out());
    return {};
  }
};
inline constexpr std::array<Linear GatedFfn::*, 3> GatedFfn::kMatrices = {
    &GatedFfn::gate, &GatedFfn::up, &GatedFfn::down};

// What a router makes of its logits: the softmax over all experts, or the sigmoid of each.
enum class Score : uint8_t { softmax, sigmoid };
inline constexpr std::array kScoreNames = {"softmax", "sigmoid"};

// From logits to experts and their weights, in steps (choose.h): scores; ranks, which are scores
// plus a bias; all but the best groups out; the top_k of the highest ranks; their scores as
// weights, divided by their sum (which makes a softmax one over the chosen alone); a factor, and one
// of each expert.
struct Router {
  Linear gate;  // (n_experts, d_model)
  uint32_t n_experts = 0, top_k = 0;
  bool normalise = true;  // weights are divided by their sum plus sum_eps
  Score score = Score::softmax;
  float sum_eps = 0;
  float scale = 1;                        // of weights
  uint32_t n_groups = 1, top_groups = 1;  // of consecutive experts; those that are chosen among
  const float* selection_bias = nullptr;  // (n_experts), for the choice alone; or none
  const float* expert_scale = nullptr;    // (n_experts) multiplies the weights; or none

  template <class V>
  void fields(V&& visit) {
    visit.number("n_experts", n_experts);
    visit.number("top_k", top_k);
    visit.number("normalise", normalise);
    visit.choice("score", score, kScoreNames);
    visit.number("sum_eps", sum_eps);
    visit.number("scale", scale);
    visit.number("n_groups", n_groups);
    visit.number("top_groups", top_groups);
    visit.matrix("router", gate, n_experts, visit.d_model);
    visit.vector("selection_bias", selection_bias, n_experts, kOptional);
    visit.vector("expert_scale", expert_scale, n_experts, kOptional);
  }
  // Whether experts are chosen by something else than the order of their logits.
  bool ranks() const { return selection_bias != nullptr || n_groups > 1; }
  // Whether there is no step but a softmax and the choice, and the sum of weights at most.
  bool is_plain_softmax() const {
    return score == Score::softmax && !ranks() && !expert_scale && scale == 1 && sum_eps == 0;
  }
  std::string fault() const {  // as a mixer's
    if (!(sum_eps >= 0 && std::isfinite(sum_eps)))
      return cat("a finite sum_eps from 0, found ", sum_eps);
    if (!std::isfinite(scale)) return cat("a finite scale, found ", scale);
    if (top_k < 1 || top_k > n_experts) return cat("a top_k of 1..", n_experts, ", found ", top_k);
    if (n_groups < 1 || n_experts % n_groups || (n_groups > 1 && n_experts / n_groups < 2))
      return cat("groups of two experts or more out of ", n_experts, ", found ", n_groups,
                 " groups");
    if (top_groups < 1 || top_groups > n_groups)
      return cat("a choice of 1..", n_groups, " groups, found ", top_groups);
    if (top_k > most_chosen())
      return cat("a top_k of 1..", most_chosen(), " out of ", top_groups, " groups, found ", top_k);
    return {};
  }
  // Experts that a token can take, whatever top_k says.
  uint32_t most_chosen() const { return n_experts / n_groups * top_groups; }
};

struct Head {                   // linear(norm(x)); of a softcap softcap * tanh(that / softcap)
  const float* norm = nullptr;  // (d_model)
  float eps = 1e-6f;
  Linear linear;      // (vocab, d_model)
  float softcap = 0;  // 0: none
};

}  // namespace moeflux::ops
