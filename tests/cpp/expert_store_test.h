// ExpertStoreTest: what tests look at behind the doors of an ExpertStore.
#pragma once
#include <algorithm>
#include <functional>
#include <stdexcept>

#include "store/expert_store.h"

namespace moeflux::store {

struct ExpertStoreTest {
  using Slot = ExpertStore::Slot;

  // Whether the address lies in a pinned slot.
  static bool is_pinned(const ExpertStore& store, const std::byte* address) {
    std::lock_guard lock(store.mutex_);
    return std::any_of(store.slots_.begin(), store.slots_.end(), [&](const Slot& slot) {
      return slot.pins > 0 && !std::less<>()(address, slot.memory.data()) &&
             std::less<>()(address, slot.memory.data() + slot.memory.nbytes());
    });
  }
  static int64_t n_pinned(const ExpertStore& store) {
    std::lock_guard lock(store.mutex_);
    return std::count_if(store.slots_.begin(), store.slots_.end(),
                         [](const Slot& slot) { return slot.pins > 0; });
  }
  // Throws std::logic_error.
  static void assert_invariants(const ExpertStore& store) {
    std::lock_guard lock(store.mutex_);
    const auto demand = [](bool holds, const char* what) {
      if (!holds) throw std::logic_error(what);
    };
    size_t parked = 0, empty = 0;
    for (const Slot& slot : store.slots_) {
      const bool idle = slot.pins == 0 && !slot.is_read();
      if (slot.state == ExpertStore::State::empty) {
        const auto listed = std::count(store.empty_.begin(), store.empty_.end(), &slot);
        demand(listed == idle, "a slot is in empty_ exactly when it is idle and empty");
        empty += idle;
        continue;
      }
      const auto& order = store.eviction_.order_[0];
      demand(idle == (order.count(store.eviction_.rank(slot.key)) == 1),
             "an expert is parked exactly when its slot is idle");
      parked += idle;
      demand(store.where_[slot.key] == &slot, "where_ lost a slot");
    }
    demand(parked == store.eviction_.n_parked(), "an expert is parked without a slot");
    demand(empty == store.empty_.size(), "empty_ holds a slot twice");
    demand(store.slots_.size() <= store.options_.max_slots, "more slots than allowed");
    for (const auto& task : store.queue_)
      demand(task.slot->is_read() && !task.slot->guess, "queue_ has demands");
    for (const auto& task : store.guesses_)
      demand(task.slot->is_read() && task.slot->guess, "guesses_ has guesses");
  }
};

}  // namespace moeflux::store
