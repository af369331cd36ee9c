// ExpertStoreTest: what tests look at behind the doors of an ExpertStore.
#pragma once
#include <algorithm>
#include <functional>
#include <set>
#include <stdexcept>

#include "store/expert_store.h"

namespace moeflux::store {

struct ExpertStoreTest {
  template <class F>
  static void each_slot(const SlotPool& pool, const F& f) {
    for (const auto& slab : pool.slabs_)
      if (slab)
        for (const Slot& slot : slab->slots) f(*slab, slot);
  }
  // Whether the address lies in a pinned slot.
  static bool is_pinned(const ExpertStore& store, const std::byte* address) {
    bool found = false;
    base::Lock lock(store.mutex_);
    each_slot(store.pool_, [&](const auto& slab, const Slot& slot) {
      const std::byte* end = slot.data + slab.memory.nbytes() / slab.slots.size();
      found |= slot.pins > 0 && !std::less<>()(address, slot.data) && std::less<>()(address, end);
    });
    return found;
  }
  static int64_t n_pinned(const ExpertStore& store) {
    int64_t n = 0;
    base::Lock lock(store.mutex_);
    each_slot(store.pool_, [&](const auto&, const Slot& slot) { n += slot.pins > 0; });
    return n;
  }
  // What the table says of an expert, as a device would find it; null: absent.
  static const std::byte* at(const ExpertStore& store, uint32_t layer, uint32_t expert) {
    base::Lock lock(store.mutex_);
    const uint32_t entry = store.table_.entries()[store.catalogue_.key_of(layer, expert)];
    if (entry == ExpertTable::kAbsent) return nullptr;
    return store.pool_.slabs_.at(ExpertTable::slab_of(entry))->memory.data() +
           ExpertTable::offset_of(entry);
  }
  // An expert that is in memory and not in use leaves it.
  static void drop(ExpertStore& store, uint32_t layer, uint32_t expert) {
    base::Lock lock(store.mutex_);
    const int64_t key = store.catalogue_.key_of(layer, expert);
    Slot* slot = store.where_[key];
    if (slot == nullptr) return;
    demand(slot->is_idle(), "an expert in use is to leave memory");
    store.eviction_.unpark(key, slot->size_class);
    store.eviction_.forget(key);
    store.where_[key] = nullptr;
    store.table_.clear(key);
    slot->state = Slot::State::empty;
    store.pool_.give(slot);
  }
  // Slots of each slab, in the order of its number.
  static std::vector<size_t> slabs(const SlotPool& pool) {
    std::vector<size_t> sizes;
    for (const auto& slab : pool.slabs_)
      if (slab) sizes.push_back(slab->slots.size());
    return sizes;
  }
  static std::vector<size_t> slabs(const ExpertStore& store) {
    base::Lock lock(store.mutex_);
    return slabs(store.pool_);
  }
  static void demand(bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
  }
  static void assert_invariants(const SlotPool& pool) {
    std::vector<uint64_t> n_slots(pool.classes_.size()), n_empty(pool.classes_.size());
    each_slot(pool, [&](const auto& slab, const Slot& slot) {
      const std::vector<Slot*>& empty = pool.classes_[slot.size_class].empty;
      const auto listed = std::count(empty.begin(), empty.end(), &slot);
      demand(listed == (slot.is_idle() && slot.state == Slot::State::empty),
             "a slot is listed as empty exactly when it is idle and empty");
      demand(slab.memory.data() + ExpertTable::offset_of(slot.entry) == slot.data,
             "an entry names another place");
      demand(pool.slabs_.at(ExpertTable::slab_of(slot.entry)).get() == &slab, "or another slab");
      n_empty[slot.size_class] += listed;
      ++n_slots[slot.size_class];
    });
    uint64_t sum = 0;
    for (size_t c = 0; c < n_slots.size(); ++c) {
      sum += n_slots[c];
      demand(n_slots[c] == pool.classes_[c].n_slots, "slots of a class are counted");
      demand(n_empty[c] == pool.classes_[c].empty.size(), "a slot that is gone is listed");
      demand(n_slots[c] >= pool.classes_[c].min_slots, "a class is below its minimum");
      demand(n_slots[c] <= pool.sizes_.classes[c].n_experts, "more slots than experts");
    }
    demand(sum == pool.n_slots() && sum <= pool.max_slots_, "more slots than allowed");
  }
  // Throws std::logic_error.
  static void assert_invariants(const ExpertStore& store) {
    base::Lock lock(store.mutex_);
    assert_invariants(store.pool_);
    size_t parked = 0, held = 0;
    const auto check = [&](const auto&, const Slot& slot) MOEFLUX_THREAD_SAFETY(
                           no_thread_safety_analysis) {  // under the lock
      if (slot.is_idle()) demand(slot.error == nullptr, "an idle slot has an error");
      if (slot.state == Slot::State::empty) return;
      const auto& order = store.eviction_.order_[slot.size_class];
      demand(slot.is_idle() == (order.count(store.eviction_.rank(slot.key)) == 1),
             "an expert is parked exactly when its slot is idle");
      parked += slot.is_idle();
      demand(store.where_[slot.key] == &slot, "where_ lost a slot");
      const uint32_t entry = store.table_.entries()[slot.key];
      demand(entry == (slot.is_read() ? ExpertTable::kAbsent : slot.entry),
             "the table has what is loaded");
      ++held;
    };
    each_slot(store.pool_, check);
    for (size_t c = 0; c < store.pool_.sizes().classes.size(); ++c)
      parked -= store.eviction_.n_parked(c);
    demand(parked == 0, "an expert is parked without a slot");
    for (size_t key = 0; key < store.where_.size(); ++key) {
      held -= store.where_[key] != nullptr;
      demand(store.where_[key] || store.table_.entries()[key] == ExpertTable::kAbsent,
             "the table has what is not held");
    }
    demand(held == 0, "an expert is held without a slot");
    for (const auto& task : store.list_.demands_)
      demand(task.slot->is_read() && !task.slot->guess, "a demand is none");
    for (const auto& task : store.list_.guesses_)
      demand(task.slot->is_read() && task.slot->guess, "a guess is none");
  }
};

}  // namespace moeflux::store
