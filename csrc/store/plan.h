// The memory plan of a model: sizes in, parts out. A pure function, tested as a table.
#pragma once
#include <cstdint>

namespace moeflux::store {

struct PlanInput {
  uint64_t memory_bytes = 0;    // the budget
  uint64_t resident_bytes = 0;  // dense weights and what was booked with them
  uint64_t scratch_bytes = 0;   // activations, kernel scratch, read buffers, thread stacks
  uint64_t session_bytes = 0;   // KV cache of the whole context and recurrent state of one session
  uint64_t slot_bytes = 0;      // one expert, rounded up to a slot
  uint64_t n_experts = 0;       // of all layers; 0: a dense model
  uint32_t n_layers = 0;        // with experts
  uint32_t top_k = 0;           // experts a token uses in a layer
  uint32_t max_slots = 0;       // a limit that the caller wants; 0: none
};

struct Plan {
  uint64_t minimum_bytes = 0;  // the smallest budget that is accepted
  uint32_t min_slots = 0;      // min_slots(n_experts, top_k)
  uint32_t max_slots = 0;      // never more than there are experts
  uint32_t slots = 0;          // that fit beside one session
  bool holds_cycle = false;    // slots >= n_layers * top_k: below it an LRU hits next to nothing
};

// Slots that a store begins with: max(top_k, 3), or all experts where there are fewer.
uint32_t min_slots(uint64_t n_experts, uint32_t top_k);

// Throws MemoryBudgetError, naming minimum_bytes and its parts, when the budget is below it, and
// FormatError when max_slots is below min_slots.
Plan make_plan(const PlanInput& input);

}  // namespace moeflux::store
