// Activations: what a forward pass computes in: (rows, width) blocks of the arena. There are those
// of a chunk, and while wide passes run those of as many rows as they have.
#pragma once
#include "base/memory.h"
#include "model/model.h"
#include "ops/ops.h"

namespace moeflux::engine {

// Rows that one call of the head gives: the more, the fewer times the head's weights are read for
// a text that is scored; the fewer, the less memory (151,936 words: 608 KB a row).
inline constexpr uint32_t kLogitRows = 16;
uint32_t logit_rows(const model::Spec& spec);  // no more than a chunk

// What the model will ask of its ops. Points into `weights`.
ops::Workload workload(const model::Weights& weights, uint32_t context);

class Activations {
 public:
  Activations() = default;
  Activations(const model::Weights& weights, uint32_t rows, bool read_ahead, base::Arena& arena);
  static uint64_t bytes(const model::Weights& weights, uint32_t rows, bool read_ahead,
                        const base::Arena& arena);
  // Whether compute of the arena can write to blocks of that size.
  static bool fits(const model::Weights& weights, uint32_t rows, const base::Arena& arena);

  base::Memory x, normed;                               // (rows, d_model)
  base::Memory latent;                                  // (rows, width of narrower experts)
  base::Memory shared;                                  // the same; without shared experts a chunk
  base::Memory expert_out;                              // (rows * top_k, d_model or that width)
  base::Memory expert_ids;                              // (rows, top_k) u32
  base::Memory expert_weights;                          // (rows, top_k)
  base::Memory router_logits;                           // (rows, n_experts)
  base::Memory guess_ids, guess_weights, guess_logits;  // the same of the next layer's guess
  base::Memory logits;                                  // (logit_rows, vocab)
  base::Booking lists;  // what a pass says of its (row, rank) pairs, on the heap

  // Of the rows from `row` on, of a layer of n_experts, top_k a token.
  ops::Routing routing(uint64_t row, uint64_t top_k, uint64_t n_experts) const {
    return {expert_ids.as<uint32_t>() + row * top_k, expert_weights.as<float>() + row * top_k,
            router_logits.as<float>() + row * n_experts};
  }
  // Of the first n (row, rank) pairs.
  std::vector<uint32_t> chosen(uint64_t n) const { return expert_ids.read<uint32_t>(0, n); }
  std::vector<uint32_t> guessed(uint64_t n) const { return guess_ids.read<uint32_t>(0, n); }
  ops::Routing guess(uint64_t row, uint64_t top_k, uint64_t n_experts) const {
    return {guess_ids.as<uint32_t>() + row * top_k, guess_weights.as<float>() + row * top_k,
            guess_logits.as<float>() + row * n_experts};
  }
};

}  // namespace moeflux::engine
