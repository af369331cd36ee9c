// The Metal device: dispatches, order, completion, lifetime, misuse.
#include <atomic>
#include <chrono>
#include <thread>

#include "metal/rig.h"

using namespace moeflux;
using namespace moeflux::test;

TEST_CASE("a dispatch computes, on a ragged grid too") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, std::vector<float>(1001, 2));
  const auto y = filled(*device, std::vector<float>(1001, 1));
  run(*device, "axpy", {Slice{x}, Slice{y}, f32(3), u32(1001)}, 1001, 64);
  CHECK(values(y) == std::vector<float>(1001, 7));
}

TEST_CASE("a dispatch sees what those before it wrote") {
  const Clean clean;
  const auto device = open_device();
  const auto a = filled(*device, {1, 2, 3});
  const auto b = device->buffer(12);
  const auto c = device->buffer(12);
  const auto commands = device->commands();
  dispatch(*device, *commands, "copy", {Slice{a}, Slice{b}, u32(3)}, 3);
  for (int i = 0; i < 5; i++) {
    dispatch(*device, *commands, "axpy", {Slice{a}, Slice{b}, f32(1), u32(3)}, 3);
  }
  dispatch(*device, *commands, "copy", {Slice{b}, Slice{c}, u32(3)}, 3);
  commands->commit();
  commands->wait();
  CHECK(values(c) == std::vector<float>{6, 12, 18});
}

TEST_CASE("command buffers run in the order of their commits, not of their making") {
  const Clean clean;
  const auto device = open_device();
  const auto a = filled(*device, {1});
  const auto b = device->buffer(4);
  const auto c = device->buffer(4);
  const auto second = device->commands();
  const auto first = device->commands();
  dispatch(*device, *second, "copy", {Slice{b}, Slice{c}, u32(1)}, 1);
  dispatch(*device, *first, "copy", {Slice{a}, Slice{b}, u32(1)}, 1);
  first->commit();
  second->commit();
  second->wait();
  CHECK(first->done());
  CHECK(values(c) == std::vector<float>{1});
}

TEST_CASE("a slice starts at its offset") {
  const Clean clean;
  const auto device = open_device();
  const auto in = filled(*device, {1, 2, 3, 4, 5});
  const auto out = device->buffer(20);
  run(*device, "copy", {Slice{in, 8}, Slice{out, 4}, u32(3)}, 3);
  CHECK(values(out) == std::vector<float>{0, 3, 4, 5, 0});
}

TEST_CASE("a kernel reaches the buffers of a list, which keeps them") {
  const Clean clean;
  const auto device = open_device();
  std::vector<std::shared_ptr<Buffer>> buffers = {filled(*device, {7, 8}), nullptr,
                                                  filled(*device, {9})};
  const auto list = device->addresses(buffers), out = device->buffer(12);
  CHECK(list->reaches().size() == 2);
  buffers.clear();
  const auto commands = device->commands();
  for (int i = 0; i < 2; ++i)
    dispatch(*device, *commands, "firsts", {Slice{list}, Slice{out}, u32(3)}, 3);
  commands->commit();
  commands->wait();
  CHECK(values(out) == std::vector<float>{7, 0, 9});
  CHECK_THROWS_WITH_AS(run(*device, "firsts", {Slice{out}, Slice{out}, u32(1)}, 1),
                       doctest::Contains("expected a list of buffers, found a buffer"),
                       FormatError);
}

TEST_CASE("a binding that the call leaves out may stay empty") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1, 2});
  const auto out = device->buffer(8);
  run(*device, "add_optional", {Slice{x}, Slice{}, Slice{out}, u32(2), u32(0)}, 2);
  CHECK(values(out) == std::vector<float>{1, 2});
  run(*device, "add_optional", {Slice{x}, Slice{x}, Slice{out}, u32(2), u32(1)}, 2);
  CHECK(values(out) == std::vector<float>{2, 4});
}

TEST_CASE("arguments are checked before the device sees them, and the commands go on") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1, 2});
  const auto out = device->buffer(8);
  const auto commands = device->commands();
  const auto copy = device->pipeline("copy");
  const auto attempt = [&](std::vector<Argument> args, device::Size grid, device::Size group) {
    commands->dispatch(copy, args, grid, group);
  };
  CHECK_THROWS_AS(attempt({Slice{x}, Slice{out}}, {2, 1, 1}, {2, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x}, Slice{out}, u32(3)}, {2, 1, 1}, {2, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x}, Slice{}, u32(2)}, {2, 1, 1}, {2, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x}, u32(1), u32(2)}, {2, 1, 1}, {2, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x, 12}, Slice{out}, u32(1)}, {1, 1, 1}, {1, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x}, Slice{out}, u32(2)}, {2, 1, 1}, {2048, 1, 1}), FormatError);
  CHECK_THROWS_AS(attempt({Slice{x}, Slice{out}, u32(2)}, {0, 1, 1}, {1, 1, 1}), FormatError);
  attempt({Slice{x}, Slice{out}, u32(2)}, {2, 1, 1}, {2, 1, 1});
  commands->commit();
  commands->wait();
  CHECK(values(out) == std::vector<float>{1, 2});
}

TEST_CASE("objects of another device are refused") {
  const Clean clean;
  const auto device = open_device();
  const auto other = open_device();
  const auto mine = filled(*device, {1});
  const auto theirs = filled(*other, {1});
  const auto commands = device->commands();
  CHECK_THROWS_WITH_AS(
      dispatch(*device, *commands, "copy", {Slice{theirs}, Slice{mine}, u32(1)}, 1),
      doctest::Contains("another device"), FormatError);
  CHECK_THROWS_AS(commands->dispatch(other->pipeline("copy"),
                                     std::vector<Argument>{Slice{mine}, Slice{mine}, u32(1)},
                                     {1, 1, 1}, {1, 1, 1}),
                  FormatError);
  CHECK_THROWS_AS(commands->dispatch(nullptr, {}, {1, 1, 1}, {1, 1, 1}), FormatError);
}

TEST_CASE("commands are open until commit, and waited for after it") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1});
  const auto commands = device->commands();
  CHECK(!commands->done());
  CHECK_THROWS_AS(commands->wait(), GpuError);
  commands->commit();
  CHECK_THROWS_AS(dispatch(*device, *commands, "copy", {Slice{x}, Slice{x}, u32(0)}, 1), GpuError);
  CHECK_THROWS_AS(commands->commit(), GpuError);
  CHECK_THROWS_AS(commands->on_completed([] {}), GpuError);
  commands->wait();
  CHECK(commands->done());
}

TEST_CASE("commands that are dropped before commit leave nothing behind") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1});
  bool called = false;
  {
    const auto commands = device->commands();
    dispatch(*device, *commands, "copy", {Slice{x}, Slice{x}, u32(0)}, 1);
    commands->on_completed([&] { called = true; });
  }
  CHECK(!called);
}

TEST_CASE("any number of commands may be open at once") {
  const Clean clean;
  const auto device = open_device();
  const auto sum = device->buffer(4);
  const auto one = filled(*device, {1});
  std::vector<std::unique_ptr<Commands>> all;
  for (int i = 0; i < 200; i++) {
    all.push_back(device->commands());
    dispatch(*device, *all.back(), "axpy", {Slice{one}, Slice{sum}, f32(1), u32(1)}, 1);
  }
  for (const auto& commands : all) commands->commit();
  all.back()->wait();
  CHECK(values(sum) == std::vector<float>{200});
}

TEST_CASE("buffers, pipelines, commands and device may be dropped while the work is under way") {
  const Clean clean;
  auto device = open_device();
  std::shared_ptr<Buffer> out = device->buffer(4);
  std::weak_ptr<Buffer> gone;
  std::atomic<bool> done{false};
  {
    auto x = filled(*device, {5});
    gone = x;
    auto commands = device->commands();
    dispatch(*device, *commands, "copy", {Slice{x}, Slice{out}, u32(1)}, 1);
    commands->on_completed([&] { done = true; });
    commands->commit();
  }
  device.reset();
  while (!done) std::this_thread::yield();
  CHECK(values(out) == std::vector<float>{5});
  while (!gone.expired()) std::this_thread::yield();
}

TEST_CASE("buffers are let go when their commands have completed, not when these go") {
  const Clean clean;
  const auto device = open_device();
  auto x = filled(*device, {5});
  const std::weak_ptr<Buffer> gone = x;
  const auto commands = device->commands();
  dispatch(*device, *commands, "axpy", {Slice{x}, Slice{x}, f32(0), u32(1)}, 1);
  x.reset();
  CHECK(!gone.expired());
  std::atomic<bool> gone_in_handler{false};
  commands->on_completed([&] { gone_in_handler = gone.expired(); });
  commands->commit();
  commands->wait();
  CHECK(gone_in_handler);
}

TEST_CASE("a completed handler finds the commands done, and has returned when a wait returns") {
  const Clean clean;
  const auto device = open_device();
  for (int i = 0; i < 20; i++) {
    const auto commands = device->commands();
    std::atomic<int> calls{0};
    std::atomic<bool> done{false};
    commands->on_completed([&] { done = commands->done(); });
    commands->on_completed([&] { calls++; });
    commands->commit();
    commands->wait();
    CHECK(done);
    CHECK(calls == 1);
    commands->wait();
    CHECK(calls == 1);
  }
}

TEST_CASE("what a completed handler throws comes out of the wait") {
  const Clean clean;
  const auto device = open_device();
  const auto commands = device->commands();
  std::atomic<int> calls{0};
  commands->on_completed([] { throw std::runtime_error("handler gave up"); });
  commands->on_completed([&] { calls++; });
  commands->commit();
  CHECK_THROWS_WITH_AS(commands->wait(), doctest::Contains("handler gave up"), GpuError);
  CHECK(calls == 1);
}

TEST_CASE("a wait with a time limit tells whether the work and its handlers are done") {
  const Clean clean;
  const auto device = open_device();
  const auto blocked = device->commands();
  std::atomic<bool> released{false};
  blocked->on_completed([&] {
    while (!released) std::this_thread::yield();
  });
  blocked->commit();
  CHECK(!blocked->wait_for(1000000));
  released = true;
  blocked->wait();
  CHECK(blocked->wait_for(0));
}

TEST_CASE("the time on the device lies within the time outside") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, std::vector<float>(100000, 1));
  const auto start = std::chrono::steady_clock::now();
  const auto commands = device->commands();
  dispatch(*device, *commands, "axpy", {Slice{x}, Slice{x}, f32(1), u32(100000)}, 100000);
  CHECK(commands->gpu_ns() == 0);
  commands->commit();
  commands->wait();
  const std::chrono::nanoseconds outside = std::chrono::steady_clock::now() - start;
  CHECK(commands->gpu_ns() > 0);
  CHECK(commands->gpu_ns() < uint64_t(outside.count()));
}

TEST_CASE("several threads may use one device") {
  const Clean clean;
  const auto device = open_device();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; thread++) {
    threads.emplace_back([&, thread] {
      const auto x = filled(*device, {1, 2, 3, 4});
      const auto y = device->buffer(16);
      for (int i = 0; i < 50; i++) {
        run(*device, "copy", {Slice{x}, Slice{y}, u32(4)}, 4);
        run(*device, "axpy", {Slice{x}, Slice{y}, f32(float(thread)), u32(4)}, 4);
        wrong += values(y)[3] != float(4 + 4 * thread);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(device->pipeline_count() == 2);
}
