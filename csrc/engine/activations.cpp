#include "engine/activations.h"

#include <algorithm>
#include <array>

namespace moeflux::engine {

namespace {

struct Block {
  base::Memory Activations::* member;
  uint64_t nbytes;
  const char* what;
};

bool has_shared(const model::Weights& weights) {
  return std::any_of(weights.layers.begin(), weights.layers.end(), [](const model::Layer& layer) {
    return layer.moe() != nullptr && layer.moe()->has_shared;
  });
}

// Of the rows that experts read, where they are not the model's; 0: they all are.
uint64_t latent_width(const model::Weights& weights) {
  uint32_t most = 0;
  for (const model::Layer& layer : weights.layers)
    if (const model::Moe* moe = layer.moe()) most = std::max(most, moe->width(0));
  return most;
}

std::array<Block, 12> blocks(const model::Weights& weights, uint64_t rows, bool read_ahead) {
  const model::Spec& spec = weights.spec;
  const uint64_t row_bytes = uint64_t(spec.d_model) * 4;
  const uint64_t shared = has_shared(weights) ? rows : spec.chunk;  // dense layers take a chunk
  const uint64_t latent_bytes = latent_width(weights) * 4;
  const uint64_t pairs = rows * weights.top_k(), guessed = read_ahead ? rows : 0;
  return {{{&Activations::x, rows * row_bytes, "activations"},
           {&Activations::normed, rows * row_bytes, "activations"},
           {&Activations::latent, rows * latent_bytes, "activations"},
           {&Activations::shared, shared * row_bytes, "activations"},
           {&Activations::expert_out, pairs * std::max(row_bytes, latent_bytes), "expert outputs"},
           {&Activations::expert_ids, pairs * 4, "routing"},
           {&Activations::expert_weights, pairs * 4, "routing"},
           {&Activations::router_logits, rows * weights.n_experts() * 4, "routing"},
           {&Activations::guess_ids, guessed * weights.top_k() * 4, "routing"},
           {&Activations::guess_weights, guessed * weights.top_k() * 4, "routing"},
           {&Activations::guess_logits, guessed * weights.n_experts() * 4, "routing"},
           {&Activations::logits, uint64_t(logit_rows(spec)) * spec.vocab * 4, "logits"}}};
}

// A pair is in the lists of its expert (4 bytes), of its job (8), of the products of the CPU's
// experts() (three times two pointers, and a row of 24): 84 bytes, half as much again while they
// grow.
constexpr uint64_t kPairBytes = 128;

// Of any expert, whose outputs have biases where the layer's have.
ops::GatedFfn shapes_of(const model::ExpertLayout& layout) {
  ops::GatedFfn expert = layout.ffn;
  for (size_t i = 0; i < layout.biases.size(); ++i)
    (expert.*expert.kMatrices[i]).bias = layout.biases[i];
  return expert;
}

uint64_t list_bytes(const model::Weights& weights, uint64_t rows) {
  return rows * weights.top_k() * kPairBytes;
}

}  // namespace

uint32_t logit_rows(const model::Spec& spec) {
  return std::min(kLogitRows, spec.chunk);
}

ops::Workload workload(const model::Weights& weights, uint32_t context) {
  const model::Spec& spec = weights.spec;
  ops::Workload work;
  work.rows = spec.chunk;
  work.logit_rows = logit_rows(spec);
  work.context = context;
  work.d_model = spec.d_model;
  work.head = &weights.head;
  work.embed = &weights.embed;
  work.embed_scale = weights.embed_scale;
  for (const model::Layer& layer : weights.layers) {
    work.mixers.push_back(&layer.mixer);
    if (const model::Moe* moe = layer.moe())
      work.moes.push_back({&moe->router, shapes_of(moe->experts),
                           moe->has_shared ? &moe->shared : nullptr,
                           moe->has_shared ? &moe->shared_gate : nullptr,
                           moe->has_latent() ? &moe->latent_in : nullptr,
                           moe->has_latent() ? &moe->latent_out : nullptr,
                           moe->sandwich.any() ? &moe->sandwich : nullptr});
    if (layer.dense()) work.dense.push_back(layer.dense());
  }
  return work;
}

Activations::Activations(const model::Weights& weights, uint32_t rows, bool read_ahead,
                         base::Arena& arena) {
  for (const Block& block : blocks(weights, rows, read_ahead))
    this->*block.member = base::Memory::written(arena, block.nbytes, block.what);
  lists = base::Booking(arena.account(), list_bytes(weights, rows), "lists of a pass");
}

uint64_t Activations::bytes(const model::Weights& weights, uint32_t rows, bool read_ahead,
                            const base::Arena& arena) {
  uint64_t sum = list_bytes(weights, rows);
  for (const Block& block : blocks(weights, rows, read_ahead))
    sum += arena.booked_bytes(block.nbytes);
  return sum;
}

bool Activations::fits(const model::Weights& weights, uint32_t rows, const base::Arena& arena) {
  const auto all = blocks(weights, rows, true);
  return std::all_of(all.begin(), all.end(),
                     [&](const Block& block) { return block.nbytes <= arena.most_written(); });
}

}  // namespace moeflux::engine
