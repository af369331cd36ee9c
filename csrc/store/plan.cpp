#include "store/plan.h"

#include <algorithm>

#include "base/error.h"

namespace moeflux::store {

uint32_t min_slots(uint64_t n_experts, uint32_t top_k) {
  return static_cast<uint32_t>(std::min<uint64_t>(n_experts, std::max<uint32_t>(top_k, 3)));
}

Plan make_plan(const PlanInput& in) {
  Plan plan;
  const uint64_t all = std::min<uint64_t>(in.n_experts, UINT32_MAX);
  plan.min_slots = min_slots(in.n_experts, in.top_k);
  plan.max_slots = static_cast<uint32_t>(all);
  if (in.max_slots && in.max_slots < plan.min_slots)
    throw FormatError("[store::plan] max_slots: expected at least ", plan.min_slots, ", found ",
                      in.max_slots);
  if (in.max_slots) plan.max_slots = std::min(in.max_slots, plan.max_slots);
  const uint64_t fixed = in.resident_bytes + in.scratch_bytes + in.session_bytes;
  plan.minimum_bytes = fixed + plan.min_slots * in.slot_bytes;
  if (in.memory_bytes < plan.minimum_bytes)
    throw MemoryBudgetError("[store::plan] memory=", in.memory_bytes,
                            " bytes is too little: expected at least ", plan.minimum_bytes,
                            " (resident ", in.resident_bytes, ", scratch ", in.scratch_bytes,
                            ", a session ", in.session_bytes, ", ", plan.min_slots,
                            " expert slots of ", in.slot_bytes, "); a smaller context= needs less");
  if (in.slot_bytes)
    plan.slots = static_cast<uint32_t>(
        std::min<uint64_t>(plan.max_slots, (in.memory_bytes - fixed) / in.slot_bytes));
  plan.holds_cycle = plan.slots >= uint64_t(in.n_layers) * in.top_k;
  return plan;
}

}  // namespace moeflux::store
