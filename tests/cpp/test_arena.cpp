#include <doctest/doctest.h>

#include <array>

#include "base/error.h"
#include "base/memory.h"
#include "tracking_arena.h"

using moeflux::base::Account;
using moeflux::base::HeapArena;
using moeflux::base::Memory;

TEST_CASE("memory is aligned, zeroed, booked in whole pages and released") {
  Account account(1 << 20);
  HeapArena arena(account);
  {
    Memory memory(arena, 5000, "test");
    CHECK(reinterpret_cast<uintptr_t>(memory.data()) % 4096 == 0);
    CHECK(memory.nbytes() == 8192);
    CHECK(account.live_bytes() == 8192);
    for (int i = 0; i < 5000; ++i) REQUIRE(memory.data()[i] == std::byte{0});
    Memory moved = std::move(memory);
    CHECK(memory.data() == nullptr);
    moved = Memory(arena, 1, "other");
    CHECK(account.live_bytes() == 4096);
  }
  CHECK(account.live_bytes() == 0);
  CHECK_THROWS_AS(Memory(arena, 2 << 20, "too much"), moeflux::MemoryBudgetError);
  CHECK_THROWS_AS(Memory(arena, UINT64_MAX - 5, "far too much"), std::bad_alloc);
  CHECK(account.live_bytes() == 0);
}

TEST_CASE("a granule is the arena's, and what it refuses is not booked") {
  Account account(1 << 20);
  TrackingArena arena(account);
  Memory memory(arena, 1, "test");
  CHECK(account.live_bytes() == arena.booked_bytes(1));
  CHECK(arena.booked_bytes(16385) == 32768);
  arena.refuse(true);
  CHECK_THROWS_WITH_AS(Memory(arena, 1, "a session"),
                       "[base::Memory] no room for a session: the system refuses its 16384 bytes, "
                       "though the budget has them",
                       moeflux::MemoryBudgetError);
  CHECK(account.live_bytes() == 16384);
}

TEST_CASE("any pointer into memory is found by its address, as a device must") {
  Account account(1 << 20);
  TrackingArena arena(account);
  Memory one(arena, 20000, "one");
  {
    Memory other(arena, 100, "other");
    CHECK(arena.find(other.data() + 60, 40).block == other.data());
    CHECK(arena.find(one.data() + 19999, 1).offset == 19999);
    CHECK(arena.find(one.data(), 32769).block == nullptr);
    CHECK(arena.n_blocks() == 2);
  }
  CHECK(arena.n_blocks() == 1);
  int on_the_stack = 0;
  CHECK(arena.find(&on_the_stack, 4).block == nullptr);
}

TEST_CASE("the CPU reads what it has written to a block, and nothing beside it changes") {
  Account account(64 << 20);
  HeapArena arena(account);
  const Memory memory(arena, 100, "test");
  const std::vector<uint32_t> values{1, 2, 3, 4, 5};
  memory.write<uint32_t>(3, values);
  CHECK(memory.read<uint32_t>(2, 7) == std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 0});
  memory.clear(4 * sizeof(uint32_t), 2 * sizeof(uint32_t));
  std::array<uint32_t, 4> found;
  memory.read(3, std::span<uint32_t>(found));
  CHECK(found == std::array<uint32_t, 4>{1, 0, 0, 4});
  memory.write<uint32_t>(0, {});
  CHECK(memory.mapped<uint32_t>()[7] == 5);
}
