#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "base/bell.h"
#include "base/clock.h"
#include "expert_store_test.h"
#include "faulty_file.h"

using namespace moeflux;
using store::ExpertStore;
using store::ExpertStoreTest;
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
  std::vector<store::LayerExperts> layers = layout();
  base::Account account;
  base::HeapArena arena{account};
  base::Bell bell;
  std::shared_ptr<FaultyFile> file;
  ExpertStore store;

  explicit Fixture(uint32_t max_slots, FaultyFile::Faults faults = {}, size_t alignment = 512,
                   uint64_t budget = 64 << 20)
      : account(budget),
        file(std::make_shared<FaultyFile>(bytes, faults, alignment)),
        store({file}, layers, arena, {3, max_slots, 4, {}, [this] { bell.ring(); }}) {}

  ExpertStore::Pin get(uint32_t layer, uint32_t expert, Use use = Use::decode) {
    auto pin = store.try_acquire(layer, expert, use);
    REQUIRE(pin);
    while (!pin->ready()) wait();
    return std::move(*pin);
  }
  void wait() { bell.wait(std::chrono::milliseconds(50)); }
  void check(const ExpertStore::Pin& pin, uint32_t layer, uint32_t expert) {
    for (const auto& part : layers[layer].parts)
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
  ExpertStoreTest::assert_invariants(f.store);
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
  ExpertStoreTest::assert_invariants(f.store);
  f.check(f.get(2, 2), 2, 2);
  CHECK(f.store.stats().bytes_read == kFirst + kSecond);
}

TEST_CASE("a read of a step that has ended does not fail the next request") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 1});
  CHECK(f.store.try_acquire(2, 2, Use::decode));  // and let go, while it is read
  f.check(f.get(2, 2), 2, 2);                     // joins that read
  CHECK(f.store.stats().misses == 1);
  ExpertStoreTest::assert_invariants(f.store);
}

TEST_CASE("nor when it has been kept in between") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 1});
  CHECK(f.store.try_acquire(2, 2, Use::decode));
  const auto kept = f.store.keep(2, 2);
  REQUIRE(kept);
  f.check(f.get(2, 2), 2, 2);
  ExpertStoreTest::assert_invariants(f.store);
}

TEST_CASE("a request that joined a failed read and fails itself is told") {
  Fixture f(4, {.delay_us = 20000, .fail_from = 0, .fail_count = 4});  // two parts, twice
  CHECK(f.store.try_acquire(2, 2, Use::decode));
  CHECK_THROWS_AS(f.get(2, 2), IoError);
  ExpertStoreTest::assert_invariants(f.store);
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
  ExpertStoreTest::assert_invariants(f.store);
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
    ExpertStoreTest::assert_invariants(f.store);
    CHECK(ExpertStoreTest::is_pinned(f.store, oldest->data()));
    f.check(f.get(1, 0), 1, 0);
    CHECK(f.store.contains(0, 0));
    CHECK_FALSE(f.store.contains(0, 1));
  }
  ExpertStoreTest::assert_invariants(f.store);
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
  ExpertStoreTest::assert_invariants(f.store);
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
  ExpertStoreTest::assert_invariants(f.store);
}

TEST_CASE("a guess that fails is nobody's error") {
  Fixture f(4, {.fail_from = 0, .fail_count = 2});
  {
    const auto guess = f.store.read_ahead(0, 3);
    while (f.store.contains(0, 3)) f.wait();
  }
  f.check(f.get(0, 3), 0, 3);
  ExpertStoreTest::assert_invariants(f.store);
}

// One reader, whose reads go on when they are told to; experts of one read.
struct GatedFixture {
  static constexpr uint64_t kBytes = 64;
  std::vector<std::byte> bytes = noise(kExperts * kBytes);
  base::Account account{64 << 20};
  base::HeapArena arena{account};
  base::Bell bell;
  std::shared_ptr<FaultyFile> file;
  ExpertStore store;

  explicit GatedFixture(FaultyFile::Faults faults)
      : file(std::make_shared<FaultyFile>(bytes, faults)),
        store({file}, {layer()}, arena, {3, 4, 1, {}, [this] { bell.ring(); }}) {}
  ~GatedFixture() { file->allow(1000); }
  static store::LayerExperts layer() {
    store::LayerExperts layer{kExperts, {{kBytes, 0, std::vector<uint32_t>(kExperts), {}}}};
    for (uint32_t expert = 0; expert < kExperts; ++expert)
      layer.parts[0].offset.push_back(expert * kBytes);
    return layer;
  }
  void check(uint32_t expert) {
    const auto pin = store.try_acquire(0, expert, Use::decode);
    REQUIRE(pin);
    while (!pin->ready()) bell.wait(std::chrono::milliseconds(50));
    CHECK(std::memcmp(pin->data(), bytes.data() + expert * kBytes, kBytes) == 0);
    ExpertStoreTest::assert_invariants(store);
  }
};

TEST_CASE("a guess that is guessed again, and fails, is nobody's, whenever it is let go") {
  for (const bool let_go_early : {true, false}) {
    GatedFixture f({.fail_from = 0, .fail_count = 1, .gated = true});
    {
      const auto guess = f.store.read_ahead(0, 5);
      f.file->wait_started(1);
    }
    const auto demand = f.store.try_acquire(0, 1, Use::decode);
    auto kept = f.store.keep(0, 5);
    REQUIRE(kept);
    f.file->allow(1);
    f.file->wait_started(2);  // the demand's: the guess has failed
    if (let_go_early) kept.reset();
    ExpertStoreTest::assert_invariants(f.store);
    f.file->allow(1000);
    f.check(1);
    if (kept) CHECK_THROWS_AS(kept->ready(), IoError);  // no demand joined, so nobody reads again
    f.check(5);
    kept.reset();
    f.check(5);
  }
}

TEST_CASE("a demand that joins a pinned guess has a read of its own") {
  for (const int64_t failures : {1, 2}) {
    GatedFixture f({.fail_from = 0, .fail_count = failures, .gated = true});
    const auto guess = f.store.read_ahead(0, 5);
    f.file->wait_started(1);
    const auto demand = f.store.try_acquire(0, 5, Use::decode);
    f.file->allow(1000);
    const auto wait = [&] {
      while (!demand->ready()) f.bell.wait(std::chrono::milliseconds(50));
    };
    if (failures == 1)
      wait();
    else
      CHECK_THROWS_AS(wait(), IoError);
    CHECK(f.file->reads() == 2);
  }
}

TEST_CASE("a guess whose read has begun is read to its end, though it is let go") {
  GatedFixture f({.gated = true});
  {
    const auto begun = f.store.read_ahead(0, 5);
    f.file->wait_started(1);
    const auto waits = f.store.read_ahead(0, 6);
  }
  CHECK(f.store.contains(0, 5));
  CHECK_FALSE(f.store.contains(0, 6));
  f.file->allow(1000);
  f.check(5);
  CHECK(f.file->reads() == 1);
  CHECK(f.store.stats().guesses == 1);
  CHECK(f.store.stats().guesses_used == 1);
}

TEST_CASE("a demand is read before guesses that were made earlier") {
  GatedFixture f({.gated = true, .log = true});
  const auto busy = f.store.try_acquire(0, 1, Use::decode);
  f.file->wait_started(1);
  const auto guess = f.store.read_ahead(0, 5);
  const auto demand = f.store.try_acquire(0, 2, Use::decode);
  f.file->allow(1000);
  f.file->wait_started(3);
  constexpr uint64_t kBytes = GatedFixture::kBytes;
  CHECK(f.file->offsets() == std::vector<uint64_t>{1 * kBytes, 2 * kBytes, 5 * kBytes});
}

TEST_CASE("reads side by side count once in the time that is read") {
  GatedFixture f({.gated = true});
  const int64_t begin = base::now_ns();
  const auto first = f.store.try_acquire(0, 1, Use::decode);
  const int64_t asked = base::now_ns();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto second = f.store.try_acquire(0, 2, Use::decode);
  const int64_t waiting = base::now_ns();
  f.file->allow(1000);
  f.check(1);
  f.check(2);
  CHECK(f.store.stats().reading_ns >= waiting - asked);
  CHECK(f.store.stats().reading_ns <= base::now_ns() - begin);
}

TEST_CASE("a guess that is asked for before its read begins is a miss like any other") {
  GatedFixture f({.gated = true});
  const auto busy = f.store.try_acquire(0, 1, Use::decode);
  f.file->wait_started(1);
  const auto guess = f.store.read_ahead(0, 5);
  const auto asked = f.store.try_acquire(0, 5, Use::decode);
  f.file->allow(1000);
  f.check(5);
  CHECK(f.store.stats().misses == 2);
  CHECK(f.store.stats().guesses == 0);
  CHECK(f.store.stats().guesses_used == 0);
}

TEST_CASE("a store may go away while a read that failed is asked for again") {
  const auto file = std::make_shared<FaultyFile>(
      noise(kExperts * GatedFixture::kBytes),
      FaultyFile::Faults{.fail_from = 0, .fail_count = 1, .gated = true});
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  auto store = std::make_unique<ExpertStore>(std::vector<std::shared_ptr<io::File>>{file},
                                             std::vector{GatedFixture::layer()}, arena,
                                             store::StoreOptions{3, 4, 1});
  CHECK(store->try_acquire(0, 2, Use::decode));
  file->wait_started(1);
  CHECK(store->try_acquire(0, 2, Use::decode));  // joins that read
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the store waits for its reader
    file->allow(1000);
  });
  store.reset();
  later.join();
  CHECK(file->reads() == 1);
}

TEST_CASE("of what is in memory, a guess is the first to go, after a slot that is empty") {
  Fixture f(5, {.fail_from = 8, .fail_count = 1});
  for (uint32_t expert = 0; expert < 3; ++expert) f.get(0, expert, Use::sweep);
  {
    const auto guess = f.store.read_ahead(0, 3);
    while (!guess->ready()) f.wait();
  }
  CHECK_THROWS_AS(f.get(0, 4), IoError);
  f.get(1, 0);  // into the slot of the read that failed
  CHECK(f.store.contains(0, 3));
  CHECK(f.store.stats().evictions == 0);
  f.get(1, 1);
  CHECK_FALSE(f.store.contains(0, 3));
  for (uint32_t expert = 0; expert < 3; ++expert) CHECK(f.store.contains(0, expert));
  CHECK(f.store.stats().evictions == 1);
}

TEST_CASE("what arrives is checked, and what the check throws reaches the pin") {
  Fixture f(3);
  std::vector<std::pair<uint32_t, uint32_t>> checked;
  const auto check = [&](uint32_t layer, uint32_t expert, const std::byte* slot,
                         const std::string& path) {
    checked.emplace_back(layer, expert);
    const store::Part& part = f.layers[layer].parts[1];
    CHECK(std::memcmp(slot + part.slot_offset, f.bytes.data() + part.offset[expert], part.nbytes) ==
          0);
    CHECK(path == f.file->path());
    if (expert == 7) throw FormatError("no number");
  };
  ExpertStore store({f.file}, f.layers, f.arena, {3, 3, 1, check, [&] { f.bell.ring(); }});
  for (const uint32_t expert : {2u, 7u}) {
    const auto pin = store.try_acquire(1, expert, Use::decode);
    const auto wait = [&] {
      while (!pin->ready()) f.wait();
    };
    if (expert == 7)
      CHECK_THROWS_WITH_AS(wait(), "no number", FormatError);
    else
      wait();
  }
  CHECK(checked == std::vector<std::pair<uint32_t, uint32_t>>{{1, 2}, {1, 7}});
  CHECK(store.contains(1, 2));
  CHECK_FALSE(store.contains(1, 7));
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

TEST_CASE("what decode works with loses nothing when a sweep uses it, too") {
  Fixture f(3);
  for (int round = 0; round < 20; ++round)
    for (uint32_t layer = 0; layer < kLayers; ++layer)
      for (uint32_t expert = 0; expert < kExperts; ++expert) f.get(layer, expert);
  f.get(2, 7, Use::sweep);
  f.get(0, 0);
  CHECK(f.store.contains(2, 7));
  CHECK_FALSE(f.store.contains(2, 5));
}

TEST_CASE("which of equals is evicted does not depend on the slots that they lie in") {
  for (const std::array<uint32_t, 3> order : {std::array{0u, 1u, 2u}, {2u, 1u, 0u}, {1u, 2u, 0u}}) {
    Fixture f(3);
    for (const uint32_t expert : order) f.get(0, expert, Use::sweep);
    f.get(1, 0, Use::sweep);
    CHECK_FALSE(f.store.contains(0, 2));
    f.get(1, 1, Use::sweep);  // the last of those that came: a prompt needs the first ones first
    CHECK_FALSE(f.store.contains(1, 0));
    CHECK(f.store.contains(0, 0));
    CHECK(f.store.contains(0, 1));
  }
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
  ExpertStoreTest::assert_invariants(f.store);
}

TEST_CASE("make_room gives no slot back while too many are in use") {
  Fixture f(8);
  std::vector<ExpertStore::Pin> pins;
  for (uint32_t expert = 0; expert < kExperts; ++expert) pins.push_back(f.get(0, expert));
  pins.erase(pins.begin(), pins.begin() + 2);
  const uint64_t free = f.account.free_bytes(), slot = f.store.slot_bytes();
  CHECK_FALSE(f.store.make_room(free + 3 * slot));
  CHECK(f.store.n_slots() == 8);
  CHECK(f.store.make_room(free + 2 * slot));
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

TEST_CASE("thousands of random demands and guesses over a slow, short-reading, failing file") {
  uint64_t arrived = 0, errors = 0, guesses_used = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Fixture f(std::array{3u, 5u, kLayers * kExperts}[seed % 3],
              {.short_reads = seed % 2 == 0, .delay_us = 5, .fail_every = 5});
    std::mt19937 random(seed);
    struct Held {
      uint32_t layer, expert;
      bool is_demand;
      ExpertStore::Pin pin;
    };
    std::vector<Held> held;
    const auto finish = [&](size_t at) {
      try {
        while (held[at].is_demand && !held[at].pin.ready()) f.wait();
        if (held[at].is_demand) f.check(held[at].pin, held[at].layer, held[at].expert);
        arrived += held[at].is_demand;
      } catch (const IoError&) {
        ++errors;
      }
      held.erase(held.begin() + at);
    };
    for (int n = 0; n < 1000; ++n) {
      const uint32_t layer = random() % kLayers, expert = random() % kExperts;
      const uint32_t what = held.empty() ? 4 + random() % 4 : random() % 8;
      std::optional<ExpertStore::Pin> pin;
      if (what < 3) finish(random() % held.size());
      if (what == 3) held.erase(held.begin() + random() % held.size());  // a step that has failed
      if (what == 4) pin = f.store.keep(layer, expert);
      if (what == 5) pin = f.store.read_ahead(layer, expert);
      if (what == 6) pin = f.store.try_acquire(layer, expert, Use::decode);
      if (what == 7) pin = f.store.try_acquire(layer, expert, Use::sweep);
      if (pin)
        held.push_back({layer, expert, what > 5, std::move(*pin)});
      else if (what > 5 && !held.empty())
        held.erase(held.begin());  // every slot is pinned, or read for one who has gone
      if (n % 16 == 0) ExpertStoreTest::assert_invariants(f.store);
    }
    while (!held.empty()) finish(0);
    ExpertStoreTest::assert_invariants(f.store);
    guesses_used += f.store.stats().guesses_used;
  }
  CHECK(arrived > 0);
  CHECK(errors > 0);
  CHECK(guesses_used > 0);
}
