#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

#include "base/bell.h"
#include "expert_store_test.h"
#include "faulty_file.h"

using namespace moeflux;
using store::ExpertStore;
using store::ExpertStoreTest;
using store::ExpertTable;
using store::LayerExperts;
using store::SizeClasses;
using store::Slot;
using store::SlotPool;
using store::Use;

namespace {

constexpr uint64_t kSlot = store::kSlotAlignment;

// Experts of 100 bytes, at the end of their slots.
LayerExperts layer_of(uint32_t n_experts, uint64_t slot_bytes) {
  LayerExperts layer{n_experts, {{100, slot_bytes - 100, std::vector<uint32_t>(n_experts), {}}}};
  layer.parts[0].offset.resize(n_experts);
  return layer;
}

SizeClasses classes_of(const base::Arena& arena, const std::vector<LayerExperts>& layers) {
  return store::size_classes(layers, arena);
}

// Pages of the heap, as long as the system has some.
class TightArena final : public base::Arena {
 public:
  explicit TightArena(base::Account& account) : Arena(account, base::kPageBytes) {}
  bool refuses = false;

 private:
  std::byte* map(uint64_t nbytes) override {
    if (refuses) throw std::bad_alloc();
    void* data = std::aligned_alloc(base::kPageBytes, nbytes);
    return static_cast<std::byte*>(std::memset(data, 0, nbytes));
  }
  void unmap(std::byte* data, uint64_t) noexcept override { std::free(data); }
};

// A store over a file of noise; experts of each layer one behind the other.
struct Pool {
  std::vector<LayerExperts> layers;
  std::vector<std::byte> bytes;
  base::Account account;
  TightArena arena{account};
  base::Bell bell;
  std::unique_ptr<ExpertStore> store;

  Pool(std::vector<LayerExperts> experts, uint64_t budget)
      : layers(std::move(experts)), account(budget) {
    uint64_t at = 0;
    for (LayerExperts& layer : layers)
      for (uint64_t& offset : layer.parts[0].offset) {
        offset = at;
        at += layer.parts[0].nbytes;
      }
    bytes = noise(at);
  }
  void open(uint32_t max_slots = UINT32_MAX, FaultyFile::Faults faults = {}) {
    const auto file = std::make_shared<FaultyFile>(bytes, faults);
    store = std::make_unique<ExpertStore>(
        std::vector<std::shared_ptr<io::File>>{file}, layers, arena,
        store::StoreOptions{3, max_slots, 2, {}, [this] { bell.ring(); }});
  }
  ExpertStore::Pin get(uint32_t layer, uint32_t expert) {
    auto pin = store->try_acquire(layer, expert, Use::decode);
    REQUIRE(pin);
    while (!pin->ready()) bell.wait(std::chrono::milliseconds(50));
    check(*pin, layer, expert);
    return std::move(*pin);
  }
  bool matches(const std::byte* data, uint32_t layer, uint32_t expert) const {
    const store::Part& part = layers[layer].parts[0];
    return std::memcmp(data + part.slot_offset, bytes.data() + part.offset[expert], part.nbytes) ==
           0;
  }
  void check(const ExpertStore::Pin& pin, uint32_t layer, uint32_t expert) const {
    REQUIRE(matches(pin.data(), layer, expert));
  }
  // The table is what `contains` says, and leads to the expert's bytes. REQUIRES: no read under way.
  void check_table() const {
    for (uint32_t layer = 0; layer < layers.size(); ++layer)
      for (uint32_t expert = 0; expert < layers[layer].n_experts; ++expert) {
        const std::byte* data = ExpertStoreTest::at(*store, layer, expert);
        REQUIRE((data != nullptr) == store->contains(layer, expert));
        if (data != nullptr) REQUIRE(matches(data, layer, expert));
      }
    ExpertStoreTest::assert_invariants(*store);
  }
};

// Beside slots, what a store of these layers books.
uint64_t fixed(const std::vector<LayerExperts>& layers) {
  base::Account none(0);
  return ExpertStore::fixed_bytes(layers, 2, base::HeapArena(none));
}

}  // namespace

TEST_CASE("layers share a class of slots when their slots differ little") {
  base::Account account(0);
  const base::HeapArena arena(account);
  const std::vector<LayerExperts> layers = {layer_of(8, 2'654'208), layer_of(8, 3'059'712),
                                            layer_of(8, 3'000'000), layer_of(4, 100),
                                            layer_of(4, 3 * kSlot)};
  const SizeClasses sizes = classes_of(arena, layers);
  CHECK(sizes.of_layer == std::vector<uint32_t>{1, 0, 0, 2, 2});
  REQUIRE(sizes.classes.size() == 3);
  CHECK(sizes.classes[0].slot_bytes == base::round_up(3'059'712, kSlot));
  CHECK(sizes.classes[0].n_experts == 16);
  CHECK(sizes.classes[0].n_layers == 2);
  CHECK(sizes.classes[1].slot_bytes == base::round_up(2'654'208, kSlot));
  CHECK(sizes.classes[2].slot_bytes == 3 * kSlot);
  CHECK(sizes.n_experts() == 32);
  CHECK(classes_of(arena, {}).classes.empty());
}

TEST_CASE("a pool is cut into slabs by its size, and what is left is halved") {
  const std::vector<LayerExperts> layers = {layer_of(1000, 100)};
  base::Account account(133 * kSlot + 100);
  base::HeapArena arena(account);
  SlotPool pool(arena, classes_of(arena, layers), 3, UINT32_MAX);
  CHECK(ExpertStoreTest::slabs(pool) == std::vector<size_t>{3});  // 133 / 32 = 4 slots a slab
  std::vector<Slot*> taken;
  while (Slot* slot = pool.take(0)) {
    slot->pins = 1;
    taken.push_back(slot);
  }
  CHECK(taken.size() == 133);
  std::vector<size_t> slabs(33, 4);
  slabs[0] = 3;
  for (int i = 0; i < 2; ++i) slabs.push_back(1);
  CHECK(ExpertStoreTest::slabs(pool) == slabs);
  ExpertStoreTest::assert_invariants(pool);
  CHECK_FALSE(pool.to_free(1));  // all are in use
  for (Slot* slot : taken) {
    slot->pins = 0;
    pool.give(slot);
  }
  CHECK_FALSE(pool.to_free(131 * kSlot));
  CHECK(pool.to_free(130 * kSlot));  // all but the minimum
  CHECK(pool.spare_bytes() == 130 * kSlot);
  CHECK(account.free_bytes() == 100);
}

TEST_CASE("slabs stay below 256 MiB, but for a slot that is larger") {
  constexpr uint64_t kMiB = 1 << 20;
  base::Account account(UINT64_C(1) << 40);
  base::HeapArena arena(account);  // pages that nobody touches
  SlotPool pool(arena, classes_of(arena, {layer_of(2000, 100 * kMiB), layer_of(4, 300 * kMiB)}), 8,
                UINT32_MAX);
  CHECK(ExpertStoreTest::slabs(pool) == std::vector<size_t>{1, 1, 1, 1, 2, 2, 2, 2});
  Slot* slot = nullptr;
  for (int i = 0; i < 9; ++i) slot = pool.take(1);
  CHECK(ExpertTable::slab_of(slot->entry) == 8);
  CHECK(ExpertTable::offset_of(pool.take(1)->entry) == 100 * kMiB);
}

TEST_CASE("a need takes the smallest slab that is enough, and the minimum stays") {
  Pool f({layer_of(1000, 100)}, fixed({layer_of(1000, 100)}) + 320 * kSlot);
  f.open();
  for (uint32_t expert = 0; expert < 320; ++expert) f.get(0, expert);
  // 3, then slabs of 12 (readers' buffers have not been booked yet), then the rest halved.
  std::vector<size_t> slabs{3};
  slabs.insert(slabs.end(), 26, 12);
  for (const size_t n : {3, 1, 1}) slabs.push_back(n);
  CHECK(ExpertStoreTest::slabs(*f.store) == slabs);
  CHECK(f.store->make_room(f.account.free_bytes() + 2 * kSlot));
  CHECK(f.store->n_slots() == 317);
  f.check_table();
  for (uint32_t expert = 0; expert < 320; ++expert)  // the oldest have gone, from another slab
    CHECK(f.store->contains(0, expert) == (expert > 2));
  CHECK_FALSE(f.store->make_room(f.account.free_bytes() + 315 * kSlot));
  CHECK(f.store->make_room(f.account.free_bytes() + 314 * kSlot));
  CHECK(ExpertStoreTest::slabs(*f.store) == std::vector<size_t>{3});
  f.check_table();
  CHECK(f.store->contains(0, 319));
}

TEST_CASE("residents of a slab that goes move, and pinned ones stay where they are") {
  Pool f({layer_of(1000, 100)}, fixed({layer_of(1000, 100)}) + 320 * kSlot);
  f.open();
  for (uint32_t expert = 0; expert < 320; ++expert) f.get(0, expert);
  std::vector<ExpertStore::Pin> pins;
  std::vector<const std::byte*> places;
  for (uint32_t expert = 5; expert < 320; expert += 40) {
    pins.push_back(f.get(0, expert));
    places.push_back(pins.back().data());
  }
  uint64_t given = 0;
  while (f.store->make_room(f.account.free_bytes() + 10 * kSlot)) {
    given += 10;
    f.check_table();
    for (size_t i = 0; i < pins.size(); ++i) {
      CHECK(pins[i].data() == places[i]);
      f.check(pins[i], 0, static_cast<uint32_t>(5 + 40 * i));
    }
  }
  CHECK(given >= 180);
  CHECK(f.store->n_slots() <= 120);
  for (uint32_t expert = 319; expert > 250; --expert) CHECK(f.store->contains(0, expert));
}

TEST_CASE("a resident that moves into the slot of a failed read does not fail") {
  Pool f({layer_of(1000, 100)}, fixed({layer_of(1000, 100)}) + 320 * kSlot);
  f.open(UINT32_MAX, {.fail_from = 319, .fail_count = 1});
  for (uint32_t expert = 0; expert < 319; ++expert) f.get(0, expert);
  {
    const auto guess = f.store->read_ahead(0, 319);
    REQUIRE(guess);
    while (f.store->contains(0, 319)) f.bell.wait(std::chrono::milliseconds(50));
  }
  REQUIRE(f.store->make_room(f.account.free_bytes() + 10 * kSlot));
  for (uint32_t expert = 0; expert < 319; ++expert)
    if (f.store->contains(0, expert)) f.get(0, expert);
  ExpertStoreTest::assert_invariants(*f.store);
}

TEST_CASE("the table has no expert that is still being read") {
  Pool f({layer_of(8, 100)}, 64 << 20);
  const auto file = std::make_shared<FaultyFile>(
      f.bytes, FaultyFile::Faults{.fail_from = 0, .fail_count = 1, .gated = true});
  f.store =
      std::make_unique<ExpertStore>(std::vector<std::shared_ptr<io::File>>{file}, f.layers, f.arena,
                                    store::StoreOptions{3, 8, 1, {}, [&f] { f.bell.ring(); }});
  for (const bool fails : {true, false}) {
    auto pin = f.store->try_acquire(0, 2, Use::decode);
    CHECK(f.store->contains(0, 2));
    CHECK(ExpertStoreTest::at(*f.store, 0, 2) == nullptr);
    file->allow(fails ? 1 : 1000);
    const auto wait = [&] {
      while (!pin->ready()) f.bell.wait(std::chrono::milliseconds(50));
    };
    if (fails)
      CHECK_THROWS_AS(wait(), IoError);
    else
      wait();
    f.check_table();
  }
}

TEST_CASE("classes of slots grow as they are asked for, each keeps its minimum") {
  // 64 experts of one slot and 64 of four pages more: the first layers asked for would take all.
  const std::vector<LayerExperts> layers = {layer_of(64, 10 * kSlot), layer_of(64, 4 * kSlot)};
  const uint64_t budget = fixed(layers) + 224 * kSlot;  // a quarter of all: 16 of each
  for (const uint32_t max_slots : {UINT32_MAX, 30u}) {
    CAPTURE(max_slots);
    Pool f(layers, budget);
    f.open(max_slots);
    CHECK(f.store->n_slots(0) == 3);
    CHECK(f.store->n_slots(1) == 3);
    for (uint32_t expert = 0; expert < 64; ++expert) f.get(0, expert);
    CHECK(f.store->n_slots(1) == 3);
    CHECK(f.store->n_slots(0) == 21);
    for (uint32_t expert = 0; expert < 64; ++expert) f.get(1, expert);
    // Then they are equally full, to a slab: a slot here, or three for one.
    const uint32_t large = f.store->n_slots(0), small = f.store->n_slots(1);
    CHECK(large <= small + 3);
    CHECK(small <= large + 3);
    f.check_table();
    for (int round = 0; round < 3; ++round)  // and nothing goes back and forth
      for (uint32_t layer = 0; layer < 2; ++layer)
        for (uint32_t expert = 0; expert < 64; ++expert) f.get(layer, expert);
    CHECK(f.store->n_slots(0) + 1 >= large);
    CHECK(f.store->n_slots(0) <= large + 1);
    CHECK(f.account.live_bytes() <= f.account.limit_bytes());
    CHECK(f.store->make_room(f.account.free_bytes() + f.store->spare_bytes()));
    CHECK(f.store->n_slots(0) == 3);
    CHECK(f.store->n_slots(1) == 3);
    f.check_table();
  }
}

TEST_CASE("where the system has no memory for a slab, an expert goes in its place") {
  const std::vector<LayerExperts> layers = {layer_of(8, kSlot)};
  Pool pool(layers, fixed(layers) + 8 * kSlot);
  pool.open();
  pool.arena.refuses = true;
  for (uint32_t expert = 0; expert < 8; ++expert) pool.get(0, expert);
  CHECK(pool.store->n_slots() == 3);  // the minimum
  CHECK(pool.account.live_bytes() == fixed(layers) + 3 * kSlot);
  pool.check_table();
  pool.arena.refuses = false;
  for (uint32_t expert = 0; expert < 8; ++expert) pool.get(0, expert);
  CHECK(pool.store->n_slots() == 8);
  pool.check_table();
}

TEST_CASE("what the system refuses to one class is not taken from another") {
  const std::vector<LayerExperts> layers = {layer_of(8, 10 * kSlot), layer_of(8, 4 * kSlot)};
  Pool pool(layers, fixed(layers) + 8 * 14 * kSlot);
  pool.open();
  for (uint32_t expert = 0; expert < 8; ++expert) pool.get(1, expert);
  pool.arena.refuses = true;
  for (uint32_t expert = 0; expert < 8; ++expert) pool.get(0, expert);
  CHECK(pool.store->n_slots() == 3 + 8);  // the first class has its minimum
  pool.check_table();
  pool.arena.refuses = false;
  for (uint32_t expert = 0; expert < 8; ++expert) pool.get(0, expert);
  CHECK(pool.store->n_slots() == 8 + 8);
  pool.check_table();
}

TEST_CASE("a class whose slots are all pinned has none to give, whatever others hold") {
  const std::vector<LayerExperts> layers = {layer_of(64, 10 * kSlot), layer_of(64, 4 * kSlot)};
  Pool f(layers, fixed(layers) + 3 * 14 * kSlot);  // the minimum
  f.open();
  std::vector<ExpertStore::Pin> pins;
  for (uint32_t expert = 0; expert < 3; ++expert) pins.push_back(f.get(0, expert));
  CHECK_FALSE(f.store->try_acquire(0, 9, Use::decode));
  for (uint32_t expert = 0; expert < 3; ++expert) pins.push_back(f.get(1, expert));
  CHECK_FALSE(f.store->try_acquire(1, 9, Use::decode));
  pins.erase(pins.begin());
  f.get(0, 9);
  CHECK_FALSE(f.store->make_room(f.account.free_bytes() + 1));
}

TEST_CASE("thousands of demands, guesses and needs of memory over classes of slots") {
  const std::vector<LayerExperts> layers = {layer_of(48, 10 * kSlot), layer_of(48, 4 * kSlot),
                                            layer_of(48, 10 * kSlot)};
  for (uint32_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    Pool f(layers, fixed(layers) + (seed % 3 == 0 ? 60 : 400) * kSlot);
    f.open(seed % 2 ? UINT32_MAX : 60);
    std::mt19937 random(seed);
    std::vector<ExpertStore::Pin> held;
    std::vector<base::Booking> others;
    for (int n = 0; n < 1200; ++n) {
      const uint32_t layer = random() % 3, expert = random() % 48;
      std::optional<ExpertStore::Pin> pin;
      switch (random() % 8) {
        case 0:
          if (!held.empty()) held.erase(held.begin() + random() % held.size());
          break;
        case 1:
          pin = f.store->read_ahead(layer, expert);
          break;
        case 2:
          pin = f.store->keep(layer, expert);
          break;
        case 3: {
          const uint64_t nbytes = random() % (60 * kSlot);
          const uint64_t free = f.account.free_bytes();
          const uint32_t n_slots = f.store->n_slots();
          if (f.store->make_room(nbytes))
            others.emplace_back(f.account, nbytes, "others");
          else
            REQUIRE((f.account.free_bytes() == free && f.store->n_slots() == n_slots));
          break;
        }
        case 4:
          if (!others.empty()) others.erase(others.begin() + random() % others.size());
          break;
        default:
          pin = f.store->try_acquire(layer, expert, random() % 4 ? Use::decode : Use::sweep);
          if (pin && held.size() > 2) f.get(layer, expert);
      }
      if (pin)
        held.push_back(std::move(*pin));
      else if (held.size() > 5)
        held.erase(held.begin());
      if (n % 8 == 0) ExpertStoreTest::assert_invariants(*f.store);
    }
    held.clear();
    while (f.store->reading()) f.bell.wait(std::chrono::milliseconds(50));
    f.check_table();
    CHECK(f.store->make_room(f.account.free_bytes() + f.store->spare_bytes()));
    CHECK(f.store->n_slots() == 6);
    f.check_table();
  }
}
