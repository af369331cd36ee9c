// The memory plan of a model: sizes in, parts out. A pure function, tested as a table.
#pragma once
#include <cstdint>
#include <vector>

#include "store/size_class.h"

namespace moeflux::store {

struct PlanInput {
  uint64_t memory_bytes = 0;       // the budget
  uint64_t resident_bytes = 0;     // dense weights and what was booked with them
  uint64_t scratch_bytes = 0;      // activations, kernel scratch, read buffers, thread stacks
  uint64_t session_bytes = 0;      // of one session that has filled its context: the most it takes
  std::vector<SizeClass> classes;  // none: a dense model
  uint32_t top_k = 0;              // experts a token uses in a layer
  uint32_t max_slots = 0;          // a limit that the caller wants; 0: none
  uint32_t chunk = 0, rows = 0;    // of a slice, and of the passes that scratch_bytes is for
  struct Width {                   // of passes, and what a pass computes in beside the scratch
    uint32_t rows = 0;
    uint64_t nbytes = 0;
  };
  std::vector<Width> wider;  // ascending: what the plan may choose in place of `rows`
};

struct Plan {
  struct Slots {
    uint32_t min = 0, max = 0;  // min_slots(n_experts, top_k); never more than there are experts
    uint32_t slots = 0;         // that fit beside one session
  };
  uint64_t minimum_bytes = 0;  // the smallest budget that is accepted
  std::vector<Slots> classes;
  uint32_t min_slots = 0, max_slots = 0, slots = 0;  // of all classes
  uint32_t rows = 0;                                 // of a pass, at most
  uint64_t pass_bytes = 0;  // that slots give for one so wide, while it runs
  bool holds_cycle =
      false;  // every class has slots for one token: below it an LRU hits next to nothing
};

// Slots that a size class begins with: max(top_k, 3), or all experts where there are fewer. A layer's
// experts always fit.
uint32_t min_slots(uint64_t n_experts, uint32_t top_k);
uint64_t min_bytes(const std::vector<SizeClass>& classes, uint32_t top_k);

// A prompt reads the experts once a pass: where they do not all fit, a pass is as wide as it may be
// while it takes no more than a kPassPart-th of what slots can give.
inline constexpr uint64_t kPassPart = 4;

// Throws MemoryBudgetError, naming minimum_bytes and its parts, when the budget is below it, and
// FormatError when max_slots is below min_slots.
Plan make_plan(const PlanInput& input);

}  // namespace moeflux::store
