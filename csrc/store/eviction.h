// Eviction: which expert leaves memory next. A pure rule on keys: no locks, no memory, no reads. The
// store asks it, and so do the simulations of benchmarks/eviction.py.
//
// Recency with a frequency term, both in ticks (one tick = one use) for each slot, so that large and
// small pools forget alike: a remembered use is worth use_worth, halved every half_life. The
// defaults are near the best pair on a trained model's routing and on a synthetic one
// (benchmarks/notebook.md).
#pragma once
#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

namespace moeflux::store {

enum class Use { decode, sweep };  // a sweep (prefill) does not push out what decode works with

class Eviction {
 public:
  struct Rule {  // in slots
    float use_worth = 1;
    float half_life = 16;
  };

  // Keys are [0, n_keys); another one is a std::out_of_range. A victim comes from the group that its
  // key was parked in.
  explicit Eviction(size_t n_keys, size_t n_groups = 1) : Eviction(n_keys, n_groups, Rule()) {}
  Eviction(size_t n_keys, size_t n_groups, Rule rule)
      : rule_(rule), keys_(n_keys), order_(n_groups) {}
  // At most, with every key parked. A node of a red-black tree has four words beside its value
  // (libstdc++, libc++).
  static constexpr uint64_t kKeyBytes = 56 + 32;

  // A use of what is held, or is going to be, among so many slots. REQUIRES: not parked.
  void touch(int64_t key, Use use, size_t n_slots) {
    Key& k = keys_.at(key);
    ++clock_;
    const float age = static_cast<float>(clock_ - k.last_use), slots = static_cast<float>(n_slots);
    k.frequency *= std::exp2(-age / (rule_.half_life * slots));
    k.last_use = clock_;
    if (use == Use::sweep) {  // behind all that decode used, before guesses
      k.priority = std::max(k.priority, kGuessed + 1 + static_cast<uint64_t>(k.frequency * 64));
    } else {
      k.frequency += 1;
      const auto worth = static_cast<uint64_t>(k.frequency * rule_.use_worth * slots);
      k.priority = std::max(k.priority, clock_ + worth);
    }
  }
  // Held, but nobody has asked for it: the first to go. REQUIRES: neither held nor parked.
  void guess(int64_t key) { keys_.at(key).priority = kGuessed; }
  // Not held any more. Its frequency is remembered. REQUIRES: not parked.
  void forget(int64_t key) { keys_.at(key).priority = 0; }

  void park(int64_t key, size_t group = 0) { order_[group].insert(rank(key)); }   // may be evicted
  void unpark(int64_t key, size_t group = 0) { order_[group].erase(rank(key)); }  // may not
  size_t n_parked(size_t group = 0) const { return order_[group].size(); }
  // Takes the least of what is parked, and forgets it. None when nothing is.
  std::optional<int64_t> evict(size_t group = 0) {
    if (order_[group].empty()) return std::nullopt;
    const int64_t key = -order_[group].begin()->minus_key;
    order_[group].erase(order_[group].begin());
    forget(key);
    return key;
  }

 private:
  friend struct ExpertStoreTest;
  static constexpr uint64_t kGuessed = 1;  // priority; 0: not held
  struct Key {
    float frequency = 0;    // of uses, as it was at the last
    uint64_t last_use = 0;  // in clock_ ticks
    uint64_t priority = 0;
  };
  // The smallest is evicted first. Of equals the highest key is: a prompt, which goes from layer to
  // layer, comes back to it last.
  struct Rank {
    uint64_t priority;
    int64_t minus_key;
    auto operator<=>(const Rank&) const = default;
  };
  static_assert(sizeof(Key) + sizeof(Rank) + 32 <= kKeyBytes);
  Rank rank(int64_t key) const { return {keys_.at(key).priority, -key}; }

  Rule rule_;
  std::vector<Key> keys_;
  std::vector<std::set<Rank>> order_;  // by group
  uint64_t clock_ = 0;
};

}  // namespace moeflux::store
