#include "store/slot_pool.h"

#include <cstring>
#include <set>

#include "base/error.h"
#include "store/expert_table.h"
#include "store/plan.h"

namespace moeflux::store {

namespace {
// A slab is what a need of memory may cost too much, and what is moved at once: a small part of the
// pool. A pool of fewer slots than this gives them back one by one.
constexpr uint64_t kSlabs = 32;
}  // namespace

SlotPool::SlotPool(base::Arena& arena, SizeClasses classes, uint32_t min_slots, uint32_t max_slots)
    : arena_(arena), sizes_(std::move(classes)), classes_(sizes_.classes.size()) {
  uint64_t experts_bytes = 0, minimum = 0;
  for (const SizeClass& size_class : sizes_.classes)
    experts_bytes += size_class.n_experts * size_class.slot_bytes;
  const uint64_t pool_bytes =
      std::min({experts_bytes, arena.account().free_bytes(), max_slots * sizes_.slot_bytes()});
  const uint64_t slab_bytes = std::min(pool_bytes / kSlabs, ExpertTable::kMaxSlabBytes);
  for (uint32_t c = 0; c < classes_.size(); ++c) {
    const uint64_t n_experts = sizes_.classes[c].n_experts;
    classes_[c].min_slots = static_cast<uint32_t>(std::min<uint64_t>(min_slots, n_experts));
    classes_[c].slab_slots =
        static_cast<uint32_t>(std::max<uint64_t>(slab_bytes / slot_bytes(c), 1));
    minimum += classes_[c].min_slots;
  }
  max_slots_ = static_cast<uint32_t>(std::max<uint64_t>(max_slots, minimum));
  // No session may eat the minimum before the first miss. Where slabs are single slots, any of them
  // may be what remains.
  for (uint32_t c = 0; c < classes_.size(); ++c)
    while (classes_[c].n_slots < classes_[c].min_slots)
      add_slab(c, std::min(classes_[c].slab_slots, classes_[c].min_slots - classes_[c].n_slots),
               classes_[c].slab_slots > 1);
}

uint32_t SlotPool::growth(uint32_t size_class) const {
  const Class& k = classes_[size_class];
  const uint64_t most = std::min({sizes_.classes[size_class].n_experts - k.n_slots,
                                  uint64_t(max_slots_ - n_slots_), uint64_t(k.slab_slots)});
  const uint64_t room = arena_.account().free_bytes() / slot_bytes(size_class);
  if (room == 0 || slabs_.size() == ExpertTable::kMaxSlabs) return 0;
  return static_cast<uint32_t>(room >= most ? most : (room + 1) / 2);
}

void SlotPool::add_slab(uint32_t size_class, uint32_t n_slots, bool stays) {
  auto slab = std::make_unique<Slab>();
  slab->memory = base::Memory(arena_, n_slots * slot_bytes(size_class), "expert slots");
  slab->slots.resize(n_slots);
  slab->size_class = size_class;
  slab->stays = stays;
  auto place = std::find(slabs_.begin(), slabs_.end(), nullptr);
  if (place == slabs_.end()) place = slabs_.insert(place, nullptr);
  arena_.number_slab(slab->memory.data(), static_cast<uint32_t>(place - slabs_.begin()));
  Class& k = classes_[size_class];
  for (uint32_t i = n_slots; i-- > 0;) {  // backwards: the first is taken first
    const uint64_t offset = i * slot_bytes(size_class);
    Slot& slot = slab->slots[i];
    slot.data = slab->memory.mapped() + offset;
    slot.size_class = size_class;
    slot.entry = ExpertTable::entry(place - slabs_.begin(), offset);
    k.empty.push_back(&slot);
  }
  k.n_slots += n_slots;
  n_slots_ += n_slots;
  *place = std::move(slab);
}

bool SlotPool::try_grow(uint32_t size_class) {
  const uint32_t n = growth(size_class);
  if (n == 0) return false;
  try {
    add_slab(size_class, n, false);
  } catch (const MemoryBudgetError&) {  // the budget has the memory, and the system has not
    return false;
  } catch (const GpuError&) {
    return false;
  }
  return true;
}

Slot* SlotPool::take(uint32_t size_class) {
  std::vector<Slot*>& empty = classes_[size_class].empty;
  if (empty.empty() && !try_grow(size_class)) return nullptr;
  Slot* slot = empty.back();
  empty.pop_back();
  return slot;
}

void SlotPool::give(Slot* slot) {
  slot->error = nullptr;
  classes_[slot->size_class].empty.push_back(slot);
}

bool SlotPool::is_idle(const Slab& slab) {
  return std::all_of(slab.slots.begin(), slab.slots.end(),
                     [](const Slot& slot) { return slot.is_idle(); });
}

// Whether a class that has `left` slots may do without n of them, for `taker` if there is one.
bool SlotPool::may_go(uint32_t size_class, uint64_t left, uint64_t n_slots,
                      std::optional<uint32_t> taker) const {
  if (left < classes_[size_class].min_slots + n_slots) return false;
  return !taker || (*taker != size_class &&
                    as_full(size_class, left - n_slots, *taker, classes_[*taker].n_slots + 1));
}

std::optional<std::vector<SlotPool::Pick>> SlotPool::picks(uint64_t nbytes,
                                                           std::optional<uint32_t> taker) const {
  struct Left {
    uint64_t n_slots;
    std::multiset<uint32_t> slabs;  // their slots
  };
  std::vector<Left> left;
  for (const Class& k : classes_) left.push_back({k.n_slots, {}});
  for (const auto& slab : slabs_)
    if (slab && !slab->stays &&
        may_go(slab->size_class, classes_[slab->size_class].n_slots, slab->slots.size(), taker) &&
        is_idle(*slab))
      left[slab->size_class].slabs.insert(static_cast<uint32_t>(slab->slots.size()));
  std::vector<Pick> out;
  while (nbytes > 0) {
    std::optional<uint32_t> fullest;
    for (uint32_t c = 0; c < left.size(); ++c) {
      while (!left[c].slabs.empty() && !may_go(c, left[c].n_slots, *left[c].slabs.rbegin(), taker))
        left[c].slabs.erase(std::prev(left[c].slabs.end()));
      if (left[c].slabs.empty()) continue;
      if (!fullest || !as_full(*fullest, left[*fullest].n_slots, c, left[c].n_slots)) fullest = c;
    }
    if (!fullest) return std::nullopt;
    Left& from = left[*fullest];
    const uint64_t needed = std::min<uint64_t>((nbytes - 1) / slot_bytes(*fullest) + 1, UINT32_MAX);
    auto slab = from.slabs.lower_bound(static_cast<uint32_t>(needed));
    if (slab == from.slabs.end()) --slab;
    out.push_back({*fullest, *slab});
    nbytes -= std::min(nbytes, *slab * slot_bytes(*fullest));
    from.n_slots -= *slab;
    from.slabs.erase(slab);
  }
  return out;
}

std::optional<std::vector<SlotPool::Pick>> SlotPool::to_grow(uint32_t size_class) const {
  // It may grow as it is where the system has refused it memory.
  if (classes_.size() == 1 || growth(size_class) > 0) return std::nullopt;
  const uint64_t free = arena_.account().free_bytes(), slot = slot_bytes(size_class);
  return picks(free < slot ? slot - free : 1, size_class);  // 1: max_slots are there
}

void SlotPool::give_back(const Pick& pick, const std::function<void(Slot*)>& moved) {
  Class& k = classes_[pick.size_class];
  const auto residents = [](const Slab& slab) {
    return std::count_if(slab.slots.begin(), slab.slots.end(),
                         [](const Slot& slot) { return slot.state == Slot::State::loaded; });
  };
  std::unique_ptr<Slab>* least = nullptr;
  for (auto& slab : slabs_)
    if (slab && !slab->stays && slab->size_class == pick.size_class &&
        slab->slots.size() == pick.n_slots && is_idle(*slab) &&
        (least == nullptr || residents(*slab) < residents(**least)))
      least = &slab;
  Slab& slab = **least;
  std::erase_if(k.empty, [&](const Slot* slot) {
    return slot >= slab.slots.data() && slot < slab.slots.data() + slab.slots.size();
  });
  for (Slot& from : slab.slots) {
    if (from.state != Slot::State::loaded) continue;
    Slot* to = k.empty.back();
    k.empty.pop_back();
    std::memcpy(to->data, from.data, slot_bytes(pick.size_class));
    to->state = from.state;
    to->key = from.key;
    to->guess = from.guess;
    moved(to);
  }
  k.n_slots -= pick.n_slots;
  n_slots_ -= pick.n_slots;
  least->reset();
}

uint64_t SlotPool::spare_bytes() const {
  uint64_t nbytes = 0;
  for (uint32_t c = 0; c < classes_.size(); ++c)
    nbytes += (classes_[c].n_slots - classes_[c].min_slots) * slot_bytes(c);
  return nbytes;
}

}  // namespace moeflux::store
