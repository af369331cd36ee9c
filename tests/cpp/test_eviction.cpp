#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>

#include "store/eviction.h"

using moeflux::store::Eviction;
using moeflux::store::Use;

namespace {

// The rule by search: it keeps a log of every use and works each number out from that.
class BruteForce {
 public:
  explicit BruteForce(Eviction::Rule rule) : rule_(rule) {}
  void touch(int64_t key, Use use, size_t n_slots) {
    log_.push_back({key, use, n_slots});
    float frequency = 0;
    size_t last = 0;
    for (size_t at = 1; at <= log_.size(); ++at) {
      const Entry& entry = log_[at - 1];
      if (entry.key != key) continue;
      const float lives = float(at - last) / (rule_.half_life * float(entry.n_slots));
      frequency = frequency * std::exp2(-lives) + (entry.use == Use::decode ? 1 : 0);
      last = at;
    }
    const uint64_t now = use == Use::sweep
                             ? 2 + uint64_t(frequency * 64)
                             : log_.size() + uint64_t(frequency * rule_.use_worth * n_slots);
    held_[key].priority = std::max(held_[key].priority, now);
  }
  void guess(int64_t key) { held_[key].priority = 1; }
  void forget(int64_t key) { held_.erase(key); }
  void park(int64_t key, size_t group) { held_[key].group = static_cast<int>(group); }
  void unpark(int64_t key) { held_[key].group = -1; }
  std::optional<int64_t> evict(size_t group) {
    std::optional<int64_t> least;
    for (const auto& [key, entry] : held_)  // by ascending key: of equals the last
      if (entry.group == static_cast<int>(group) &&
          (!least || entry.priority <= held_[*least].priority))
        least = key;
    if (least) held_.erase(*least);
    return least;
  }
  const auto& held() const { return held_; }

  struct Held {
    uint64_t priority = 0;
    int group = -1;  // that it is parked in
  };

 private:
  struct Entry {
    int64_t key;
    Use use;
    size_t n_slots;
  };
  Eviction::Rule rule_;
  std::vector<Entry> log_;
  std::map<int64_t, Held> held_;
};

}  // namespace

TEST_CASE("eviction takes what a search through the log of all uses takes") {
  constexpr int64_t kKeys = 40;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    const Eviction::Rule rule = seed % 2 ? Eviction::Rule{} : Eviction::Rule{0.5f, 3};
    const auto group_of = [](int64_t key) { return static_cast<size_t>(key % 3 == 0); };
    Eviction eviction(kKeys, 2, rule);
    BruteForce model(rule);
    std::mt19937 random(seed);
    for (int n = 0; n < 1500; ++n) {
      const int64_t key = random() % kKeys;
      const auto found = model.held().find(key);
      const bool is_held = found != model.held().end();
      const bool is_parked = is_held && found->second.group >= 0;
      const uint32_t what = random() % 8;
      if (is_parked) {
        eviction.unpark(key, group_of(key));
        model.unpark(key);
      }
      if (what == 0 && is_held) {
        eviction.forget(key);
        model.forget(key);
        continue;
      }
      if (what == 1 && !is_held) {
        eviction.guess(key);
        model.guess(key);
      } else if (what < 7 || !is_held) {
        const Use use = what < 4 ? Use::sweep : Use::decode;
        const size_t n_slots = 1 + model.held().size();
        eviction.touch(key, use, n_slots);
        model.touch(key, use, n_slots);
      }
      if (random() % 5 != 0) {
        eviction.park(key, group_of(key));
        model.park(key, group_of(key));
      }
      const size_t group = random() % 2;
      if (model.held().size() > 12) REQUIRE(eviction.evict(group) == model.evict(group));
    }
    for (const size_t group : {0, 1})
      while (const auto key = model.evict(group)) REQUIRE(eviction.evict(group) == key);
    CHECK(eviction.n_parked(0) + eviction.n_parked(1) == 0);
    CHECK_FALSE(eviction.evict(0));
  }
}

TEST_CASE("a key that there is not is refused") {
  Eviction eviction(4);
  CHECK_THROWS_AS(eviction.touch(4, Use::decode, 1), std::out_of_range);
  CHECK_THROWS_AS(eviction.park(-1), std::out_of_range);
}
