#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "base/bell.h"
#include "faulty_file.h"
#include "store/expert_store.h"

using namespace moeflux;
using store::ExpertStore;
using store::Use;

namespace {

constexpr uint32_t kLayers = 3, kExperts = 8;
constexpr uint64_t kFirst = 1000, kSecond = 37;  // bytes of the two parts of an expert

// Experts at odd offsets in one file, the parts of an expert far apart.
std::vector<store::LayerExperts> layout() {
  std::vector<store::LayerExperts> layers(kLayers);
  uint64_t at = 3;
  for (auto& layer : layers) {
    layer.n_experts = kExperts;
    layer.parts = {{kFirst, 0}, {kSecond, base::round_up(kFirst, store::kPartAlignment)}};
    for (auto& part : layer.parts)
      for (uint32_t expert = 0; expert < kExperts; ++expert) {
        part.file.push_back(0);
        part.offset.push_back(at);
        at += part.nbytes;
      }
  }
  return layers;
}

struct Fixture {
  std::vector<std::byte> bytes = noise(3 + kLayers * kExperts * (kFirst + kSecond));
  base::Account account;
  base::HeapArena arena{account};
  base::Bell bell;
  std::shared_ptr<FaultyFile> file;
  ExpertStore store;

  explicit Fixture(uint32_t max_slots, FaultyFile::Faults faults = {}, size_t alignment = 512,
                   uint64_t budget = 64 << 20)
      : account(budget),
        file(std::make_shared<FaultyFile>(bytes, faults, alignment)),
        store({file}, layout(), arena, {3, max_slots, 4, {}, [this] { bell.ring(); }}) {}

  ExpertStore::Pin get(uint32_t layer, uint32_t expert, Use use = Use::decode) {
    auto pin = store.try_acquire(layer, expert, use);
    REQUIRE(pin);
    while (!pin->ready()) wait();
    return std::move(*pin);
  }
  void wait() { bell.wait(std::chrono::milliseconds(50)); }
  void check(const ExpertStore::Pin& pin, uint32_t layer, uint32_t expert) {
    for (const auto& part : store.layer(layer).parts)
      REQUIRE(std::memcmp(pin.data() + part.slot_offset, bytes.data() + part.offset[expert],
                          part.nbytes) == 0);
  }
};

}  // namespace

TEST_CASE("a miss reads every part, a hit reads nothing") {
  Fixture f(6, {.short_reads = true});
  f.check(f.get(1, 5), 1, 5);
  CHECK(f.store.stats().misses == 1);
  const int64_t reads = f.file->reads();
  f.check(f.get(1, 5), 1, 5);
  CHECK(f.file->reads() == reads);
  CHECK(f.store.stats().hits == 1);
  CHECK(f.store.stats().bytes_read == kFirst + kSecond);
}

TEST_CASE("a pinned expert is not evicted") {
  Fixture f(3);
  const auto pin = f.get(0, 0);
  for (uint32_t round = 0; round < 5; ++round)
    for (uint32_t expert = 1; expert < kExperts; ++expert) f.get(1, expert);
  CHECK(f.store.contains(0, 0));
  f.check(pin, 0, 0);
  f.store.assert_invariants();
}

TEST_CASE("when all slots are pinned there is none, until a pin is released") {
  Fixture f(3);
  std::vector<ExpertStore::Pin> pins;
  for (uint32_t expert = 0; expert < 3; ++expert) pins.push_back(f.get(0, expert));
  CHECK_FALSE(f.store.try_acquire(0, 7, Use::decode));
  pins.pop_back();
  f.check(f.get(0, 7), 0, 7);
}

TEST_CASE("a failed read reaches the pin and the next request reads again") {
  Fixture f(4, {.fail_from = 0, .fail_count = 1});
  {
    auto pin = f.store.try_acquire(2, 2, Use::decode);
    REQUIRE(pin);
    const auto wait = [&] {
      while (!pin->ready()) f.wait();
    };
    CHECK_THROWS_AS(wait(), IoError);
  }
  f.store.assert_invariants();
  f.check(f.get(2, 2), 2, 2);
  CHECK(f.store.stats().bytes_read == kFirst + kSecond);
}

TEST_CASE("a read of a step that has ended does not fail the next request") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 1});
  CHECK(f.store.try_acquire(2, 2, Use::decode));  // and let go, while it is read
  f.check(f.get(2, 2), 2, 2);                     // joins that read
  CHECK(f.store.stats().misses == 1);
  f.store.assert_invariants();
}

TEST_CASE("nor when it has been kept in between") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 1});
  CHECK(f.store.try_acquire(2, 2, Use::decode));
  const auto kept = f.store.keep(2, 2);
  REQUIRE(kept);
  f.check(f.get(2, 2), 2, 2);
  f.store.assert_invariants();
}

TEST_CASE("a request that joined a failed read and fails itself is told") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 4});  // two parts, twice
  CHECK(f.store.try_acquire(2, 2, Use::decode));
  CHECK_THROWS_AS(f.get(2, 2), IoError);
  f.store.assert_invariants();
  f.check(f.get(2, 2), 2, 2);
}

TEST_CASE("a guess is read when nothing else is to be, and asking for it makes it a miss") {
  Fixture f(6);
  {
    const auto guess = f.store.read_ahead(1, 4);
    REQUIRE(guess);
    CHECK_FALSE(f.store.read_ahead(1, 4));  // under way already
    while (!guess->ready()) f.wait();
  }
  CHECK(f.store.stats().guesses == 1);
  CHECK(f.store.stats().misses == 0);
  const int64_t reads = f.file->reads();
  f.check(f.get(1, 4), 1, 4);
  f.check(f.get(1, 4), 1, 4);
  CHECK(f.file->reads() == reads);
  CHECK(f.store.stats().guesses_used == 1);
  CHECK(f.store.stats().misses == 1);
  CHECK(f.store.stats().hits == 1);
  f.store.assert_invariants();
}

TEST_CASE("what is kept is not evicted, and keeping it is no use of it") {
  Fixture f(3);
  f.check(f.get(0, 0), 0, 0);
  f.check(f.get(0, 1), 0, 1);
  f.check(f.get(0, 2), 0, 2);
  CHECK_FALSE(f.store.keep(0, 3));  // not in memory: no read begins
  {
    const auto oldest = f.store.keep(0, 0);
    REQUIRE(oldest);
    f.store.assert_invariants();
    CHECK(f.store.is_pinned(oldest->data()));
    f.check(f.get(1, 0), 1, 0);
    CHECK(f.store.contains(0, 0));
    CHECK_FALSE(f.store.contains(0, 1));
  }
  f.store.assert_invariants();
  CHECK(f.store.stats().hits == 0);
  f.check(f.get(1, 1), 1, 1);
  CHECK_FALSE(f.store.contains(0, 0));  // the oldest still
}

TEST_CASE("a read that is under way can be kept, and outlives the one who asked for it") {
  Fixture f(3, {.delay_us = 20000});
  auto asked = f.store.try_acquire(0, 0, Use::decode);
  {
    const auto kept = f.store.keep(0, 0);
    REQUIRE(kept);
    {
      const auto gone = std::move(asked);
    }
    while (!kept->ready()) f.wait();
  }
  f.check(f.get(0, 0), 0, 0);
  CHECK(f.store.stats().hits == 1);
  f.store.assert_invariants();
}

TEST_CASE("guesses give way to demands; let go, what has not begun is not read") {
  Fixture f(8, {.delay_us = 20000});
  std::vector<ExpertStore::Pin> guesses;
  for (uint32_t expert = 0; expert < 6; ++expert)
    guesses.push_back(std::move(*f.store.read_ahead(0, expert)));
  f.check(f.get(0, 5), 0, 5);  // the last of them: a demand now
  guesses.clear();
  f.check(f.get(2, 1), 2, 1);
  CHECK(f.store.stats().guesses < 6);
  f.store.assert_invariants();
}

TEST_CASE("a guess that fails is nobody's error") {
  Fixture f(4, {.fail_from = 0, .fail_count = 2});
  {
    const auto guess = f.store.read_ahead(0, 3);
    while (f.store.contains(0, 3)) f.wait();
  }
  f.check(f.get(0, 3), 0, 3);
  f.store.assert_invariants();
}

// Independent tokens whose experts have fixed popularities, as the weights of `synth` do: the best
// order is by popularity, and plain LRU pays for every rare expert with a popular one.
TEST_CASE("popular experts stay, in pools of any size") {
  constexpr uint32_t kKeys = 1000;
  store::LayerExperts layer;
  layer.n_experts = kKeys;
  layer.parts = {{1, 0}};
  for (uint32_t key = 0; key < kKeys; ++key) {
    layer.parts[0].file.push_back(0);
    layer.parts[0].offset.push_back(key);
  }
  std::vector<double> weights;
  for (uint32_t key = 0; key < kKeys; ++key) weights.push_back(1 / std::sqrt(1.0 + key));
  for (const uint32_t n_slots : {50u, 500u}) {
    base::Account account(64 << 20);
    base::HeapArena arena(account);
    base::Bell bell;
    ExpertStore store({std::make_shared<FaultyFile>(noise(kKeys), FaultyFile::Faults{})}, {layer},
                      arena, {3, n_slots, 1, {}, [&] { bell.ring(); }});
    std::mt19937 random(1);
    std::discrete_distribution<uint32_t> choose(weights.begin(), weights.end());
    std::vector<uint32_t> recent;  // keys of plain LRU, the last used at the end
    uint64_t lru_misses = 0;
    for (uint32_t i = 0; i < 10000; ++i) {
      const uint32_t key = choose(random);
      const auto pin = store.try_acquire(0, key, Use::decode);
      REQUIRE(pin);
      while (!pin->ready()) bell.wait(std::chrono::milliseconds(50));
      if (std::erase(recent, key) == 0) ++lru_misses;
      if (recent.size() == n_slots) recent.erase(recent.begin());
      recent.push_back(key);
    }
    CHECK(store.stats().misses < lru_misses * 95 / 100);
  }
}

TEST_CASE("a sweep does not flush what decode works with") {
  Fixture f(6);
  for (int round = 0; round < 3; ++round)
    for (uint32_t expert = 0; expert < 4; ++expert) f.get(0, expert);
  for (uint32_t expert = 0; expert < kExperts; ++expert) f.get(1, expert, Use::sweep);
  for (uint32_t expert = 0; expert < 4; ++expert) CHECK(f.store.contains(0, expert));
}

TEST_CASE("make_room gives slots back, and none when that would not be enough") {
  Fixture f(20);
  for (uint32_t layer = 0; layer < 2; ++layer)
    for (uint32_t expert = 0; expert < kExperts; ++expert) f.get(layer, expert);
  const uint64_t slot = f.store.slot_bytes();
  CHECK(f.store.n_slots() == 16);
  CHECK(f.store.make_room(f.account.free_bytes() + 4 * slot));
  CHECK(f.store.n_slots() == 12);
  const auto pin = f.get(2, 0);
  const uint32_t n = f.store.n_slots();
  const uint64_t most = f.account.free_bytes() + (n - 3) * slot;
  CHECK_FALSE(f.store.make_room(f.account.limit_bytes()));
  CHECK_FALSE(f.store.make_room(most + 1));
  CHECK(f.store.n_slots() == n);  // what cannot be met costs nothing
  CHECK(f.store.contains(2, 0));
  CHECK(f.store.make_room(most));  // not below the minimum, not the pinned one
  CHECK(f.store.n_slots() == 3);
  f.check(pin, 2, 0);
  f.store.assert_invariants();
}

TEST_CASE("slots stop at the budget, and the minimum beyond it is refused") {
  base::Account none(0);
  const uint64_t fixed = ExpertStore::fixed_bytes(layout(), 4, base::HeapArena(none));
  Fixture f(20, {}, 512, fixed + 5 * store::kSlotAlignment);
  for (uint32_t expert = 0; expert < kExperts; ++expert) f.check(f.get(0, expert), 0, expert);
  CHECK(f.store.n_slots() == 5);
  CHECK(f.account.live_bytes() <= f.account.limit_bytes());
  CHECK_THROWS_AS(Fixture(20, {}, 512, fixed + 2 * store::kSlotAlignment), MemoryBudgetError);
}

TEST_CASE("a store may go away while reads are in flight") {
  for (int round = 0; round < 20; ++round) {
    Fixture f(8, {.delay_us = 300});
    for (uint32_t expert = 0; expert < 8; ++expert)
      (void)f.store.try_acquire(0, expert, Use::decode);
  }
}

TEST_CASE("a range behind the end of the file is refused at once") {
  auto layers = layout();
  layers[2].parts[1].offset[7] += 1;
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  const auto file = io::open_memory(noise(3 + kLayers * kExperts * (kFirst + kSecond)), "experts");
  CHECK_THROWS_AS(ExpertStore({file}, layers, arena, {3, 4, 2}), FormatError);
  layers[2].parts[1].offset[7] = UINT64_MAX - 5;
  CHECK_THROWS_AS(ExpertStore({file}, layers, arena, {3, 4, 2}), FormatError);
}

TEST_CASE("thousands of random requests over a slow, short-reading, failing file") {
  for (uint32_t slots : {3u, 5u, kLayers * kExperts}) {
    Fixture f(slots, {.short_reads = true, .delay_us = 5, .fail_from = 500, .fail_count = 40});
    std::mt19937 random(slots);
    std::vector<std::tuple<uint32_t, uint32_t, ExpertStore::Pin>> held;
    int errors = 0;
    for (int n = 0; n < 2000; ++n) {
      if (!held.empty() && random() % 3 == 0) {
        const size_t at = random() % held.size();
        auto& [layer, expert, pin] = held[at];
        try {
          while (!pin.ready()) f.wait();
          f.check(pin, layer, expert);
        } catch (const IoError&) {
          ++errors;
        }
        held.erase(held.begin() + at);
      } else {
        const uint32_t layer = random() % kLayers, expert = random() % kExperts;
        auto pin = f.store.try_acquire(layer, expert, random() % 2 ? Use::decode : Use::sweep);
        if (pin)
          held.emplace_back(layer, expert, std::move(*pin));
        else if (!held.empty())
          held.erase(held.begin());
      }
      if (n % 16 == 0) f.store.assert_invariants();
    }
    held.clear();
    f.store.assert_invariants();
    CHECK(f.store.stats().misses > 0);
  }
}
