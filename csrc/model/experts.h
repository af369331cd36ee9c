// Where the planes of an expert's matrices lie in a slot.
#pragma once
#include <array>

#include "ops/ops.h"
#include "store/expert_store.h"

namespace moeflux::model {

struct ExpertLayout {  // of every expert of a layer
  ops::GatedFfn ffn;   // its shapes; no planes
  std::array<quant::Planes<uint64_t>, ops::GatedFfn::kMatrices.size()> offsets{};  // in a slot
  // (n_experts, out): of each matrix's outputs, which stay in memory; or none.
  std::array<const float*, ops::GatedFfn::kMatrices.size()> biases{};

  ops::GatedFfn at(const std::byte* slot, uint32_t expert) const;  // the expert in a slot
};

// Gives the parts of a layer's experts, which follow each other as the planes of gate, up and down
// do, their places in a slot (store::place_parts) and notes them. Throws FormatError when parts and
// shapes differ.
void place_experts(store::LayerExperts& layer, uint64_t alignment, ExpertLayout& layout);

}  // namespace moeflux::model
