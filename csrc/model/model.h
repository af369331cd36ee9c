// What a model is: runtime shapes, resident weights, experts on disk. Holds no sequence's state.
#pragma once
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/memory.h"
#include "io/file.h"
#include "model/experts.h"
#include "ops/ops.h"

namespace moeflux::model {

struct Moe {
  ops::Router router;
  ExpertLayout experts;
  uint32_t store_layer = 0;  // index in the expert store
  bool has_shared = false;
  ops::GatedFfn shared;
  ops::Linear shared_gate;
  ops::Sandwich sandwich;             // then `shared` sees rows of its own
  ops::Linear latent_in, latent_out;  // around experts that are narrower than the model; or none
  bool has_latent() const { return latent_in.out() != 0; }
  uint32_t width(uint32_t d_model) const { return has_latent() ? latent_in.out() : d_model; }
};

struct Layer {                  // x += mixer(norm(x)), then x += ffn(norm(x)); or one of them
  const float* norm = nullptr;  // (d_model); none where the mixer is nothing
  ops::Mixer mixer;
  const float* ffn_norm = nullptr;  // (d_model); none where the network is nothing
  std::variant<Moe, ops::GatedFfn, ops::Nothing> ffn;
  const Moe* moe() const { return std::get_if<Moe>(&ffn); }  // null: no experts
  const ops::GatedFfn* dense() const { return std::get_if<ops::GatedFfn>(&ffn); }
};

struct Spec {
  uint32_t vocab = 0, d_model = 0;
  float eps = 1e-6f;
  uint32_t chunk = 512;  // prefill rows a pass, counted from position 0: never from the budget
};

struct Weights {
  Spec spec;
  quant::Matrix embed;  // (vocab, d_model)
  std::vector<Layer> layers;
  ops::Head head;
  const float* embed_scale = nullptr;  // (1) multiplies what the embedding gives; or none
  std::vector<base::Memory> memory;    // what the pointers above point to
  base::Booking tables;                // of this struct itself

  uint32_t top_k() const;      // of the widest MoE layer; 0: a dense model
  uint32_t n_experts() const;  // the same
};

}  // namespace moeflux::model
