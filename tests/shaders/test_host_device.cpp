// The host device: order, errors at the wait, lifetimes. Kernels are those of library/.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/host/host_device.h"
#include "order.h"

using namespace moeflux;
using namespace moeflux::device;

namespace {
struct Fixture {
  explicit Fixture(const host::Options& options = {}) : device(host::open(options)) {}

  std::shared_ptr<Buffer> buffer(size_t count) { return device->buffer(count * sizeof(uint32_t)); }
  static uint32_t* words(const std::shared_ptr<Buffer>& buffer) {
    return reinterpret_cast<uint32_t*>(buffer->contents());
  }
  void fill(Commands& commands, const std::shared_ptr<Buffer>& out, uint32_t count,
            uint32_t value) {
    const Argument args[] = {Slice{out, 0}, Scalar{count}, Scalar{value}};
    commands.dispatch(device->pipeline("fill"), args, {count, 1, 1}, {64, 1, 1});
  }
  // out[0] = table[index[0]]
  void look_up(Commands& commands, const std::shared_ptr<Buffer>& table,
               const std::shared_ptr<Buffer>& index, const std::shared_ptr<Buffer>& out) {
    const Argument args[] = {Slice{table, 0}, Slice{index, 0}, Slice{out, 0}};
    commands.dispatch(device->pipeline("look_up"), args, {1, 1, 1}, {1, 1, 1});
  }
  void diverge(Commands& commands, const std::shared_ptr<Buffer>& x,
               const std::shared_ptr<Buffer>& out) {
    const Argument args[] = {Slice{x, 0}, Slice{out, 0}, Scalar{64}};
    commands.dispatch(device->pipeline("barrier_in_branch"), args, {64, 1, 1}, {64, 1, 1});
  }

  std::unique_ptr<Device> device;
};

host::Options hard(uint32_t seed) {
  host::Options options;
  options.seed = seed;
  options.order = host::random_legal_order;
  options.max_delay_us = 300;
  options.guard_pages = true;
  return options;
}
}  // namespace

TEST_CASE("a dispatch sees the writes of those before it, whatever the schedule") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Fixture f(hard(seed));
    const auto table = f.buffer(100), index = f.buffer(1), out = f.buffer(1), other = f.buffer(8);
    const auto commands = f.device->commands();
    f.fill(*commands, table, 100, 7);
    f.fill(*commands, other, 8, 1);  // independent: may run anywhere
    f.fill(*commands, index, 1, 3);
    f.look_up(*commands, table, index, out);
    f.fill(*commands, table, 100, 8);  // after it was read
    f.fill(*commands, index, 1, 99);
    commands->commit();
    commands->wait();
    CHECK(Fixture::words(out)[0] == 7);
    CHECK(Fixture::words(table)[99] == 8);
    CHECK(Fixture::words(other)[7] == 1);
    CHECK(Fixture::words(index)[0] == 99);
  }
}

TEST_CASE("random legal orders keep what depends on each other, and do vary") {
  Fixture f;
  const auto a = f.buffer(4), b = f.buffer(4), c = f.buffer(4);
  Recording recording;
  const auto add = [&](const std::shared_ptr<Buffer>& out) {
    const Argument args[] = {Slice{out, 0}, Scalar{4}, Scalar{1}};
    recording.dispatch(f.device->pipeline("fill"), args, {4, 1, 1}, {4, 1, 1});
  };
  add(a);  // 0
  add(b);  // 1
  add(a);  // 2 after 0
  add(c);  // 3
  add(a);  // 4 after 2
  std::mt19937 random(1);
  size_t differing = 0;
  for (int i = 0; i < 100; ++i) {
    const std::vector<size_t> order = host::random_legal_order(recording, random);
    REQUIRE(order.size() == 5);
    std::vector<size_t> place(5, 99);
    for (size_t k = 0; k < 5; ++k) place[order[k]] = k;
    CHECK(place[0] < place[2]);
    CHECK(place[2] < place[4]);
    CHECK(place[4] < 5);
    differing += order != std::vector<size_t>{0, 1, 2, 3, 4};
  }
  CHECK(differing > 10);
}

TEST_CASE("what dispatches touch of one buffer decides whether they are independent") {
  for (const uint32_t n : {4u, 64u}) {  // words from the start; the other writes four at byte 128
    Fixture f;
    const auto all = f.buffer(64);
    Recording recording;
    const auto add = [&](uint64_t offset, uint32_t words) {
      const Argument args[] = {Slice{all, offset}, Scalar{words}, Scalar{1}};
      recording.dispatch(f.device->pipeline("fill"), args, {words, 1, 1}, {4, 1, 1});
    };
    add(0, n);
    add(128, 4);
    std::mt19937 random(1);
    size_t swapped = 0;
    for (int i = 0; i < 50; ++i)
      swapped += host::random_legal_order(recording, random) != std::vector<size_t>{0, 1};
    if (n == 64) CHECK(swapped == 0);
    if (n == 4) CHECK(swapped > 5);
  }
}

TEST_CASE("command buffers run in the order of their commits") {
  for (uint32_t seed = 0; seed < 5; ++seed) {
    Fixture f(hard(seed));
    const auto out = f.buffer(256);
    std::vector<std::unique_ptr<Commands>> all;
    for (uint32_t i = 0; i < 20; ++i) all.push_back(f.device->commands());
    for (uint32_t i = 0; i < 20; ++i) f.fill(*all[19 - i], out, 256, i);  // recorded backwards
    for (const auto& commands : all) commands->commit();
    all.back()->wait();
    for (const auto& commands : all) CHECK(commands->done());
    CHECK(Fixture::words(out)[255] == 0);
  }
}

TEST_CASE(
    "a failure is thrown by each wait, leaves the rest of its command buffer out, and no more") {
  Fixture f(hard(3));
  const auto x = f.buffer(64), out = f.buffer(64);
  const auto broken = f.device->commands(), sound = f.device->commands();
  f.fill(*broken, x, 64, 1);
  f.diverge(*broken, x, out);
  f.fill(*broken, x, 64, 2);
  f.fill(*sound, out, 64, 9);
  std::atomic<int> handled = 0;
  broken->on_completed([&] { ++handled; });
  broken->commit();
  sound->commit();
  CHECK_THROWS_AS(broken->wait(), GpuError);
  CHECK_THROWS_WITH_AS(broken->wait(), doctest::Contains("kernel barrier_in_branch"), GpuError);
  CHECK(handled == 1);
  CHECK(broken->done());
  sound->wait();
  CHECK(Fixture::words(x)[0] != 2);
  CHECK(Fixture::words(out)[63] == 9);
}

TEST_CASE("sizes that depend on contents are checked at the call and again before the run") {
  Fixture f;
  const auto table = f.buffer(10), index = f.buffer(1), out = f.buffer(1);
  Fixture::words(index)[0] = 10;
  {
    const auto commands = f.device->commands();
    CHECK_THROWS_WITH_AS(f.look_up(*commands, table, index, out),
                         doctest::Contains("expected 11 elements of f32, found 10"), FormatError);
  }
  Fixture::words(index)[0] = 9;
  const auto commands = f.device->commands();
  f.look_up(*commands, table, index, out);
  Fixture::words(index)[0] = 4000;  // changed by the caller in between
  commands->commit();
  CHECK_THROWS_WITH_AS(commands->wait(), doctest::Contains("expected 4001"), GpuError);
}

TEST_CASE("handlers run once, on the device's thread, before a wait returns") {
  Fixture f(hard(1));
  const auto out = f.buffer(64);
  for (int i = 0; i < 20; ++i) {
    const auto commands = f.device->commands();
    f.fill(*commands, out, 64, 1);
    std::atomic<int> count = 0;
    std::thread::id thread;
    commands->on_completed([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      thread = std::this_thread::get_id();
      ++count;
    });
    commands->on_completed([&] { ++count; });
    commands->commit();
    commands->wait();
    CHECK(count == 2);
    CHECK(thread != std::this_thread::get_id());
  }
}

TEST_CASE("a wait with a timeout comes back, and gpu_ns counts") {
  host::Options slow;
  slow.max_delay_us = 200000;
  slow.seed = 5;
  Fixture f(slow);
  const auto out = f.buffer(64);
  const auto commands = f.device->commands();
  f.fill(*commands, out, 64, 1);
  CHECK_THROWS_AS(commands->wait_for(0), GpuError);  // not committed: nothing to wait for
  CHECK_FALSE(commands->done());
  commands->commit();
  const bool early = commands->wait_for(0);
  CHECK((!early || commands->done()));
  commands->wait();
  CHECK(commands->wait_for(0));
  CHECK(commands->gpu_ns() > 0);
}

TEST_CASE("after its commit a Commands refuses everything") {
  Fixture f;
  const auto out = f.buffer(64);
  const auto commands = f.device->commands();
  commands->commit();
  CHECK_THROWS_AS(f.fill(*commands, out, 64, 1), GpuError);
  CHECK_THROWS_AS(commands->on_completed([] {}), GpuError);
  CHECK_THROWS_AS(commands->commit(), GpuError);
  commands->wait();  // an empty command buffer completes
}

TEST_CASE("what a command buffer uses lives until it has completed, and no longer") {
  Fixture f(hard(2));
  std::weak_ptr<Buffer> watched;
  std::unique_ptr<Commands> commands = f.device->commands();
  const auto kept = f.buffer(64);
  {
    const auto dropped = f.buffer(64);
    watched = dropped;
    f.fill(*commands, dropped, 64, 1);
    f.fill(*commands, kept, 64, 2);
  }
  CHECK_FALSE(watched.expired());
  commands->commit();
  commands->wait();
  CHECK(watched.expired());
  CHECK(Fixture::words(kept)[63] == 2);

  commands = f.device->commands();  // one that is never committed
  {
    const auto dropped = f.buffer(64);
    watched = dropped;
    f.fill(*commands, dropped, 64, 1);
  }
  commands.reset();
  CHECK(watched.expired());
}

TEST_CASE("commands, buffers and pipelines may outlive their device; a device finishes its work") {
  std::unique_ptr<Commands> committed, open;
  std::shared_ptr<Buffer> out;
  std::atomic<bool> handled = false;
  {
    Fixture f(hard(4));
    out = f.buffer(64);
    committed = f.device->commands();
    open = f.device->commands();
    f.fill(*committed, out, 64, 5);
    f.fill(*open, out, 64, 6);
    committed->on_completed([&] { handled = true; });
    committed->commit();
  }
  committed->wait();
  CHECK(handled);
  CHECK(Fixture::words(out)[0] == 5);
  open->commit();
  open->wait();
  CHECK(Fixture::words(out)[0] == 6);
}

TEST_CASE("a handler may hold the last reference to its own Commands") {
  Fixture f;
  const auto out = f.buffer(64);
  std::shared_ptr<Commands> commands = f.device->commands();
  f.fill(*commands, out, 64, 5);
  std::weak_ptr<Commands> watched = commands;
  commands->on_completed([commands] {});
  commands->commit();
  commands.reset();
  const auto last = f.device->commands();
  last->commit();
  last->wait();
  CHECK(watched.expired());
}

TEST_CASE("wrapped memory is used in place and given back") {
  Fixture f;
  const uint64_t page = f.device->limits().page_bytes;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(page, 2 * page));
  int freed = 0;
  {
    auto buffer = f.device->wrap(memory, 2 * page, [&] { ++freed; });
    CHECK(buffer->contents() == memory);
    CHECK(buffer->nbytes() == 2 * page);
    const auto commands = f.device->commands();
    f.fill(*commands, buffer, 64, 77);
    buffer.reset();
    CHECK(freed == 0);
    commands->commit();
    commands->wait();
  }
  CHECK(freed == 1);
  CHECK(reinterpret_cast<uint32_t*>(memory)[63] == 77);
  CHECK_THROWS_AS(f.device->wrap(memory + 64, page, {}), FormatError);
  CHECK_THROWS_AS(f.device->wrap(memory, page - 1, {}), FormatError);
  CHECK_THROWS_AS(f.device->wrap(memory, 0, {}), FormatError);
  CHECK_THROWS_AS(f.device->wrap(nullptr, page, {}), FormatError);
  std::free(memory);
}

TEST_CASE("buffers are zero-filled, and refused when empty or too large") {
  for (const bool guard_pages : {false, true}) {
    host::Options options;
    options.guard_pages = guard_pages;
    Fixture f(options);
    for (uint64_t nbytes : {1, 15, 16, 4095, 4096, 4097, 100000}) {
      const auto buffer = f.device->buffer(nbytes);
      REQUIRE(buffer->nbytes() == nbytes);
      CHECK(reinterpret_cast<uintptr_t>(buffer->contents()) % 16 == 0);
      for (uint64_t i = 0; i < nbytes; ++i) REQUIRE(buffer->contents()[i] == std::byte{0});
    }
    CHECK_THROWS_AS(f.device->buffer(0), FormatError);
    CHECK_THROWS_AS(f.device->buffer(UINT64_MAX), GpuError);
    CHECK_THROWS_AS(f.device->buffer(f.device->limits().max_buffer_bytes + 1), GpuError);
  }
}

TEST_CASE("objects of another device are refused") {
  Fixture f, other;
  const auto out = f.buffer(64), foreign = other.buffer(64);
  const auto commands = f.device->commands();
  CHECK_THROWS_WITH_AS(f.fill(*commands, foreign, 64, 1), doctest::Contains("of this device"),
                       FormatError);
  const Argument args[] = {Slice{out, 0}, Scalar{64}, Scalar{1}};
  CHECK_THROWS_AS(commands->dispatch(other.device->pipeline("fill"), args, {64, 1, 1}, {64, 1, 1}),
                  FormatError);
  CHECK_THROWS_AS(commands->dispatch(nullptr, args, {64, 1, 1}, {64, 1, 1}), FormatError);
}

TEST_CASE("pipelines are made on first request and cached by name and constants") {
  Fixture f;
  CHECK(f.device->pipeline_count() == 0);
  const auto one = f.device->pipeline("constants");
  CHECK(f.device->pipeline("constants") == one);
  CHECK(f.device->pipeline("constants", {{"first_constant", 3}}) == one);  // the default
  CHECK(f.device->pipeline_count() == 1);
  const auto two = f.device->pipeline("constants", {{"second_constant", 9}});
  CHECK(two != one);
  CHECK(two->constants()[0] == 3);
  CHECK(two->constants()[1] == 9);
  CHECK(f.device->pipeline_count() == 2);
  CHECK_THROWS_WITH_AS(f.device->pipeline("no_such_kernel"), doctest::Contains("no_such_kernel"),
                       KernelNotFoundError);
  CHECK_THROWS_AS(f.device->pipeline("fill", {{"first_constant", 1}}), Error);
  CHECK(f.device->pipeline_count() == 2);
  CHECK(std::string(f.device->kind()) == "host");
}

TEST_CASE("many threads record and commit at once") {
  Fixture f(hard(6));
  constexpr int kThreads = 4, kRounds = 25;
  std::vector<std::shared_ptr<Buffer>> out(kThreads);
  for (auto& buffer : out) buffer = f.buffer(64);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (uint32_t round = 0; round < kRounds; ++round) {
        const auto commands = f.device->commands();
        f.fill(*commands, out[t], 64, round + 1);
        commands->commit();
        if (round % 3 == 0) commands->wait();
        if (round + 1 == kRounds) commands->wait();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& buffer : out) CHECK(Fixture::words(buffer)[63] == kRounds);
  CHECK(f.device->pipeline_count() == 1);
}
