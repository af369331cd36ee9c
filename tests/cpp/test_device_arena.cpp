// DeviceArena: every address is found in one buffer, whatever the device's limits, and everything
// that a device holds for a model stands in the model's account.
#include <doctest/doctest.h>

#include "engine_fixture.h"
#include "faulty_device.h"
#include "ops/gpu/device_arena.h"

using namespace moeflux;
using base::Account;
using base::Memory;
using ops::gpu::DeviceArena;
using ops::gpu::Place;
using Access = DeviceArena::Access;
using Fault = FaultyDevice::Fault;

namespace {

constexpr uint64_t kPage = 4096;  // of the host device on x86-64; Apple's are 16 KiB

struct Rig {
  explicit Rig(uint64_t max_buffer_bytes = 64 << 20, uint64_t budget = 64 << 20) : account(budget) {
    device->set_limits(max_buffer_bytes, 0);
    arena = std::make_shared<DeviceArena>(device, account);
  }
  uint64_t page() const { return device->limits().page_bytes; }

  std::shared_ptr<FaultyDevice> device = std::make_shared<FaultyDevice>(device::open_host());
  Account account;
  std::shared_ptr<DeviceArena> arena;
};

std::byte* address_of(const Place& place) {
  return place.buffer->contents() + place.offset;
}

}  // namespace

TEST_CASE("any range of a block is found where the device has it") {
  Rig rig;
  Memory one(*rig.arena, 20000, "one"), other(*rig.arena, 100, "other");
  CHECK(reinterpret_cast<uintptr_t>(one.data()) % kPage == 0);
  CHECK(one.nbytes() % rig.page() == 0);
  for (int i = 0; i < 20000; ++i) REQUIRE(one.data()[i] == std::byte{0});
  for (const auto access : {Access::read, Access::write})
    for (const auto& [offset, nbytes] : {std::pair<uint64_t, uint64_t>(0, one.nbytes()),
                                         {19999, 1},
                                         {4, 12},
                                         {one.nbytes() - 1, 1}}) {
      const Place place = rig.arena->locate(one.data() + offset, nbytes, access);
      CHECK(place.offset == offset);
      CHECK(address_of(place) == one.data() + offset);
    }
  CHECK(rig.arena->locate(other.data(), 1).buffer != rig.arena->locate(one.data(), 1).buffer);
  CHECK(rig.arena->reach(one.data() + 8) == one.nbytes() - 8);
}

TEST_CASE("what is not the arena's is an error, not a guess") {
  Rig rig;
  const std::byte* gone;
  {
    Memory memory(*rig.arena, 100, "test");
    gone = memory.data();
    CHECK_THROWS_WITH_AS(rig.arena->locate(memory.data(), memory.nbytes() + 1),
                         doctest::Contains("ends outside"), GpuError);
    CHECK_THROWS_AS(rig.arena->locate(memory.data() + memory.nbytes(), 1), GpuError);
    CHECK_THROWS_AS(rig.arena->locate(memory.data() - 1, 1), GpuError);
  }
  int on_the_stack = 0;
  CHECK_THROWS_WITH_AS(rig.arena->locate(&on_the_stack, 4), doctest::Contains("outside the arena"),
                       GpuError);
  CHECK_THROWS_AS(rig.arena->locate(nullptr, 4), GpuError);
  CHECK_THROWS_AS(rig.arena->locate(gone, 1), GpuError);
  CHECK_THROWS_AS(rig.arena->reach(gone), GpuError);
}

TEST_CASE("no buffer passes the limit, and every row of a matrix lies in one, at each limit") {
  const uint64_t page = Rig().page();
  for (const uint64_t pages : {2, 3, 4, 7, 16}) {
    // With a limit that is no multiple of the page.
    Rig rig(pages * page + 100);
    for (const uint64_t nbytes : {pages * page, (pages + 1) * page, 10 * pages * page + page}) {
      CAPTURE(pages);
      CAPTURE(nbytes);
      Memory memory(*rig.arena, nbytes, "weights");
      // The longest row that half of the limit always holds, and others that divide nothing.
      for (const uint64_t row_bytes : {pages / 2 * page, uint64_t{4}, uint64_t{1000}, page - 4}) {
        uint64_t cuts = 0;
        for (uint64_t at = 0; at + row_bytes <= nbytes; ++cuts) {  // as a stage cuts a matrix
          const uint64_t rows =
              std::min(rig.arena->reach(memory.data() + at), nbytes - at) / row_bytes;
          REQUIRE(rows > 0);
          const Place place = rig.arena->locate(memory.data() + at, rows * row_bytes);
          REQUIRE(address_of(place) == memory.data() + at);
          REQUIRE(place.offset + rows * row_bytes <= place.buffer->nbytes());
          at += rows * row_bytes;
        }
        CHECK((cuts > 1) == (nbytes / row_bytes * row_bytes > pages * page));
      }
      // What is there is there through every buffer.
      for (uint64_t at = 0; at < nbytes; at += 512) {
        const Place place = rig.arena->locate(memory.data() + at, 4);
        *memory.as<uint32_t>() = 7;
        memory.as<uint32_t>()[at / 4] = static_cast<uint32_t>(at) + 1;
        REQUIRE(*reinterpret_cast<const uint32_t*>(address_of(place)) == at + 1);
      }
    }
    CHECK(rig.device->seen().largest_buffer <= pages * page);
    CHECK(rig.device->live_bytes() == 0);
  }
}

TEST_CASE("a block under several buffers is read only, and a range that none holds is an error") {
  Rig rig(4 * Rig().page());
  Memory memory(*rig.arena, 10 * rig.page(), "weights");
  CHECK(rig.device->seen().calls.at(Fault::wrap) == 4);  // [0, 4) [2, 6) [4, 8) [6, 10) pages
  CHECK_THROWS_WITH_AS(rig.arena->locate(memory.data(), 4, Access::write),
                       doctest::Contains("memory that the device writes"), GpuError);
  CHECK_THROWS_WITH_AS(rig.arena->locate(memory.data(), 4 * rig.page() + 1),
                       doctest::Contains("does not fit one buffer"), GpuError);
  CHECK(rig.arena->locate(memory.data() + 3 * rig.page(), 2 * rig.page()).offset == rig.page());
}

TEST_CASE("a block that not even two pages at a time can cover is refused, and not booked") {
  Rig rig(Rig().page());
  CHECK_THROWS_WITH_AS(Memory(*rig.arena, 2 * rig.page(), "weights"),
                       doctest::Contains(("found " + std::to_string(2 * rig.page())).c_str()),
                       GpuError);
  CHECK(rig.account.live_bytes() == 0);
  CHECK(Memory(*rig.arena, rig.page(), "weights").data() != nullptr);
}

TEST_CASE("memory given back leaves the account and the device") {
  Rig rig;
  {
    Memory one(*rig.arena, 100000, "one");
    Memory moved = std::move(one);
    CHECK(rig.device->live_bytes() == moved.nbytes());
    CHECK(rig.account.live_bytes() == moved.nbytes());
  }
  CHECK(rig.account.live_bytes() == 0);
  CHECK(rig.device->live_bytes() == 0);
}

TEST_CASE("a slab is found by its number for as long as it lives") {
  Rig rig;
  constexpr uint64_t kUnit = base::kSlotAlignment;
  const Memory weights(*rig.arena, kUnit, "weights"), one(*rig.arena, 3 * kUnit, "one");
  std::optional<Memory> two(std::in_place, *rig.arena, 2 * kUnit, "two");
  rig.arena->number_slab(one.data(), 3);
  rig.arena->number_slab(two->data(), 0);
  CHECK(!rig.arena->in_slab(weights.data(), 1));
  CHECK(!rig.arena->in_slab(one.data() + kUnit, one.nbytes() - kUnit + 1));
  const auto found = rig.arena->in_slab(one.data() + kUnit + 100, kUnit);
  REQUIRE(found);
  CHECK(found->entry == base::SlabEntry::entry(3, kUnit));
  CHECK(found->rest == 100);
  const auto listed = [&] {  // addresses; and sizes are those of the blocks
    const auto [list, count] = rig.arena->slabs();
    const auto* words = reinterpret_cast<const uint64_t*>(address_of(list));
    CHECK(list.buffer->nbytes() == 16 * count);
    std::vector<uint64_t> addresses;
    for (uint32_t i = 0; i < count; ++i) {
      addresses.push_back(words[2 * i]);
      CHECK((words[2 * i + 1] != 0) == (words[2 * i] != 0));
    }
    return addresses;
  };
  const auto address = [](const Memory& of) { return reinterpret_cast<uintptr_t>(of.data()); };
  CHECK(listed() == std::vector<uint64_t>{address(*two), 0, 0, address(one)});
  const Place kept = rig.arena->slabs().list;
  CHECK(kept.buffer == rig.arena->slabs().list.buffer);  // the same until something changes
  const std::byte* gone = two->data();
  const uint64_t live = rig.device->live_bytes();
  two.reset();
  CHECK(listed() == std::vector<uint64_t>{0, 0, 0, address(one)});
  CHECK_THROWS_AS(rig.arena->in_slab(gone, 1), GpuError);
  CHECK(kept.buffer->reaches().size() == 2);  // a recording's list still has what it reaches
  CHECK(rig.device->live_bytes() == live + kept.buffer->nbytes());  // and a second list
}

TEST_CASE("a slab under several buffers is none that kernels find") {
  Rig rig(4 * Rig().page());
  const Memory large(*rig.arena, 10 * rig.page(), "slab");
  rig.arena->number_slab(large.data(), 0);
  CHECK(!rig.arena->in_slab(large.data(), 1));
  CHECK(rig.arena->slabs().count == 0);
}

TEST_CASE("a buffer is kept by what uses it, after its memory was given back") {
  Rig rig;
  Place place;
  {
    Memory memory(*rig.arena, 100, "test");
    memory.data()[5] = std::byte{9};
    place = rig.arena->locate(memory.data() + 5, 1);
  }
  CHECK(*address_of(place) == std::byte{9});
}

TEST_CASE("a device without memory is a GpuError, nothing is booked, and the next block is fine") {
  for (const auto fault : {Fault::buffer, Fault::wrap}) {
    Rig rig(4 * Rig().page());
    const uint64_t nbytes = (fault == Fault::buffer ? 2 : 20) * rig.page();
    for (uint64_t after = 0; after < (fault == Fault::buffer ? 1 : 9); ++after) {
      rig.device->inject(fault, after);
      CHECK_THROWS_AS(Memory(*rig.arena, nbytes, "test"), GpuError);
      CHECK(rig.account.live_bytes() == 0);
      CHECK(rig.device->live_bytes() == 0);
    }
    CHECK(Memory(*rig.arena, nbytes, "test").data() != nullptr);
  }
}

TEST_CASE("a system without memory is a GpuError") {
  Rig rig(4 * Rig().page(), UINT64_C(1) << 62);
  CHECK_THROWS_WITH_AS(Memory(*rig.arena, UINT64_C(1) << 60, "test"),
                       doctest::Contains("no memory"), GpuError);
  CHECK(rig.account.live_bytes() == 0);
}

TEST_CASE("a budget above the working set is refused with both numbers") {
  FaultyDevice device(device::open_host());
  device.set_limits(64 << 20, 1000000);
  ops::gpu::check_working_set(device, 1000000);
  CHECK_THROWS_WITH_AS(ops::gpu::check_working_set(device, 1000001),
                       doctest::Contains("a budget of 1000001 bytes"), MemoryBudgetError);
  CHECK_THROWS_WITH_AS(ops::gpu::check_working_set(device, 1000001),
                       doctest::Contains("memory=1000000 would do"), MemoryBudgetError);
  device.set_limits(64 << 20, 0);  // no advice
  ops::gpu::check_working_set(device, UINT64_MAX);
}

TEST_CASE("a device that shares no memory is refused") {
  const auto device = std::make_shared<FaultyDevice>(device::open_host());
  device->set_unified(false);
  Account account(1 << 20);
  CHECK_THROWS_WITH_AS(DeviceArena(device, account), doctest::Contains("shares its memory"),
                       GpuError);
}

TEST_CASE("a model over shared buffers has the bits of one over pages, at any limit of a buffer") {
  const auto run = [](TinyModel& model) {
    const auto session = model.session();
    Logits all = model.step(*session, prompt(20));
    const Logits one = model.step(*session, {3});
    all.insert(all.end(), one.begin(), one.end());
    return all;
  };
  TinyModel plain({4, 2});
  const Logits expected = run(plain);
  for (const uint64_t pages : {2, 5, 1000}) {
    const auto device = std::make_shared<FaultyDevice>(device::open_host());
    device->set_limits(pages * device->limits().page_bytes, 0);
    TinyModel::Options options{4, 2};
    options.make_arena = [&](Account& account) {
      return std::make_shared<DeviceArena>(device, account);
    };
    TinyModel model(options);
    CHECK(same_bits(run(model), expected));
    CHECK(model.engine().stats().store.misses > 48);
    CHECK(device->seen().largest_buffer <= device->limits().max_buffer_bytes);
  }
}
