#include "store/plan.h"

#include <algorithm>
#include <string>

#include "base/cat.h"
#include "base/error.h"

namespace moeflux::store {

namespace {

uint32_t capped(uint64_t n) {
  return static_cast<uint32_t>(std::min<uint64_t>(n, UINT32_MAX));
}

// Slots for `level` of `all` experts, the same part of every class but for its minimum. Returns
// whether that fits.
bool fits(Plan& plan, const std::vector<SizeClass>& classes, uint64_t level, uint64_t all,
          uint64_t room) {
  uint64_t nbytes = 0, n = 0;
  for (size_t c = 0; c < classes.size(); ++c) {
    Plan::Slots& k = plan.classes[c];
    k.slots = std::max(k.min, static_cast<uint32_t>(level * k.max / all));
    nbytes += k.slots * classes[c].slot_bytes;
    n += k.slots;
  }
  plan.slots = capped(n);
  return nbytes <= room && n <= plan.max_slots;
}

// As the pool comes to share its memory: classes are equally full. What is left then holds no slot
// more of every class, but perhaps of one.
void share(Plan& plan, const std::vector<SizeClass>& classes, uint64_t all, uint64_t room) {
  uint64_t level = 0;
  for (uint64_t step = uint64_t(1) << 31; step > 0; step /= 2)
    if (level + step <= all && fits(plan, classes, level + step, all, room)) level += step;
  fits(plan, classes, level, all, room);
  for (size_t c = 0; c < classes.size(); ++c) room -= plan.classes[c].slots * classes[c].slot_bytes;
  for (size_t c = 0; c < classes.size(); ++c)
    if (Plan::Slots& k = plan.classes[c];
        k.slots < k.max && plan.slots < plan.max_slots && classes[c].slot_bytes <= room) {
      room -= classes[c].slot_bytes;
      ++k.slots;
      ++plan.slots;
    }
}

// The widest pass that slots can give room for, of what they have beyond their minimum.
void widen(Plan& plan, const PlanInput& in, uint64_t spare) {
  for (const PlanInput::Width& width : in.wider) {
    if (width.nbytes > spare / kPassPart) return;
    plan.rows = width.rows;
    plan.pass_bytes = width.nbytes;
  }
}

}  // namespace

uint32_t min_slots(uint64_t n_experts, uint32_t top_k) {
  return static_cast<uint32_t>(std::min<uint64_t>(n_experts, std::max<uint32_t>(top_k, 3)));
}

uint64_t min_bytes(const std::vector<SizeClass>& classes, uint32_t top_k) {
  uint64_t nbytes = 0;
  for (const SizeClass& k : classes) nbytes += min_slots(k.n_experts, top_k) * k.slot_bytes;
  return nbytes;
}

Plan make_plan(const PlanInput& in) {
  Plan plan;
  uint64_t all = 0;
  std::string slots = "0 expert slots of 0";
  for (const SizeClass& k : in.classes) {
    plan.classes.push_back({min_slots(k.n_experts, in.top_k), capped(k.n_experts), 0});
    const uint32_t min = plan.classes.back().min;
    slots = cat(plan.min_slots ? slots + " and " : "", min, " expert slots of ", k.slot_bytes);
    plan.min_slots += min;
    all += k.n_experts;
  }
  plan.max_slots = capped(all);
  if (in.max_slots && in.max_slots < plan.min_slots)
    throw FormatError("[store::plan] max_slots: expected at least ", plan.min_slots, ", found ",
                      in.max_slots);
  if (in.max_slots) plan.max_slots = std::min(in.max_slots, plan.max_slots);
  const uint64_t fixed = in.resident_bytes + in.scratch_bytes + in.session_bytes;
  plan.minimum_bytes = fixed + min_bytes(in.classes, in.top_k);
  if (in.memory_bytes < plan.minimum_bytes)
    throw MemoryBudgetError(
        "[store::plan] memory=", in.memory_bytes, " bytes is too little: expected at least ",
        plan.minimum_bytes, " (resident ", in.resident_bytes, ", scratch ", in.scratch_bytes,
        ", a session ", in.session_bytes, ", ", slots, "); a smaller context= needs less",
        in.rows > in.chunk ? ", and so do fewer rows=" : "");
  if (all > 0) share(plan, in.classes, capped(all), in.memory_bytes - fixed);
  plan.holds_cycle = true;
  for (size_t c = 0; c < in.classes.size(); ++c)
    plan.holds_cycle &= plan.classes[c].slots >= uint64_t(in.classes[c].n_layers) * in.top_k;
  plan.rows = in.rows;
  if (plan.slots < all) widen(plan, in, in.memory_bytes - plan.minimum_bytes);
  return plan;
}

}  // namespace moeflux::store
