// SlotPool: memory for experts, by size class, cut from slabs that can be given back. Knows no
// expert: the store says what a slot holds. Not thread-safe: the store's lock guards it.
//
// The rules, for every class the same:
// - Its minimum is taken at once and never given back, so that one layer's experts always fit.
// - A class grows on demand, a slab at a time, while the budget and max_slots allow. What does not
//   fit whole is halved: small slabs remain for small needs.
// - Its fill is the share of its experts that have a slot. When memory must go, the fullest class
//   gives a slab: the smallest that is enough, else its largest. A class that cannot grow may take
//   slabs from one that stays at least as full as it becomes itself with one slot more: fills even
//   out.
// - A slab in which a slot is pinned or being read stays.
#pragma once
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/memory.h"
#include "store/size_class.h"

namespace moeflux::store {

struct Slot {
  enum class State { empty, queued, reading, loaded };  // reading: a reader has taken a piece

  std::byte* data = nullptr;
  uint32_t size_class = 0;
  uint32_t entry = 0;  // as ExpertTable has it
  State state = State::empty;
  int64_t key = 0;  // unless empty: of the expert
  uint32_t pins = 0;
  uint32_t left = 0;         // while read: pieces that have not arrived
  bool guess = false;        // read_ahead's, and nobody has asked for it since
  bool again = false;        // joined after its read began: on a fault it is read once more
  std::exception_ptr error;  // of the last read

  bool is_read() const { return state == State::queued || state == State::reading; }
  bool is_idle() const { return pins == 0 && !is_read(); }
};

class SlotPool {
 public:
  // min_slots: of each class, or all its experts where there are fewer. max_slots: of all classes
  // together, their minimum at least. Throws MemoryBudgetError, and what the arena throws.
  SlotPool(base::Arena& arena, SizeClasses classes, uint32_t min_slots, uint32_t max_slots);
  // Beside the slots' memory, at most, for every slot.
  static constexpr uint64_t kSlotTableBytes = sizeof(Slot) + 128;

  // An empty slot, of a new slab when the class has none and may grow; else null, also where the
  // system or the device has no memory for a slab.
  Slot* take(uint32_t size_class);
  void give(Slot* slot);  // REQUIRES: empty and idle

  struct Pick {  // a slab that can be given back, whichever it is
    uint32_t size_class;
    uint32_t n_slots;
  };
  // Slabs of `nbytes` or more together that can go; none when there are not so many.
  std::optional<std::vector<Pick>> to_free(uint64_t nbytes) const { return picks(nbytes, {}); }
  // The same for one more slot of a class that cannot grow, from fuller classes.
  std::optional<std::vector<Pick>> to_grow(uint32_t size_class) const;
  uint64_t n_empty(uint32_t size_class) const { return classes_[size_class].empty.size(); }
  // Gives back that slab with the fewest residents, which move to other empty slots first: moved() is
  // called with the new slot of each. REQUIRES: pick.n_slots empty slots of the class.
  void give_back(const Pick& pick, const std::function<void(Slot*)>& moved);

  uint32_t n_slots() const { return n_slots_; }
  uint32_t n_slots(uint32_t size_class) const { return classes_[size_class].n_slots; }
  bool holds_all() const {
    uint64_t n_held = n_slots_;
    for (const Class& k : classes_) n_held -= k.empty.size();
    return n_held >= sizes_.n_experts();
  }
  uint64_t free_bytes() const { return arena_.account().free_bytes(); }
  uint64_t spare_bytes() const;  // of slots beyond the minimum
  const SizeClasses& sizes() const { return sizes_; }

 private:
  friend struct ExpertStoreTest;
  struct Slab {
    base::Memory memory;
    std::vector<Slot> slots;
    uint32_t size_class = 0;
    bool stays = false;  // part of a minimum
  };
  struct Class {
    uint32_t min_slots = 0, n_slots = 0;
    uint32_t slab_slots = 0;   // of a whole slab
    std::vector<Slot*> empty;  // and idle
  };
  static bool is_idle(const Slab& slab);
  uint64_t slot_bytes(uint32_t size_class) const { return sizes_.classes[size_class].slot_bytes; }
  // Whether a class of n slots would be as full as another one of m.
  bool as_full(uint32_t a, uint64_t n, uint32_t b, uint64_t m) const {
    return n * sizes_.classes[b].n_experts >= m * sizes_.classes[a].n_experts;
  }
  uint32_t growth(uint32_t size_class) const;  // slots of the next slab
  void add_slab(uint32_t size_class, uint32_t n_slots, bool stays);
  bool try_grow(uint32_t size_class);
  bool may_go(uint32_t size_class, uint64_t left, uint64_t n_slots,
              std::optional<uint32_t> taker) const;
  std::optional<std::vector<Pick>> picks(uint64_t nbytes, std::optional<uint32_t> taker) const;

  base::Arena& arena_;
  const SizeClasses sizes_;
  uint32_t max_slots_;
  uint32_t n_slots_ = 0;
  std::vector<Class> classes_;
  std::vector<std::unique_ptr<Slab>> slabs_;  // by number; null: given back
};

}  // namespace moeflux::store
