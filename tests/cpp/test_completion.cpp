#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/completion.h"

using namespace moeflux;
using moeflux::device::Completion;

namespace {
constexpr uint64_t kLong = UINT64_C(1) << 62;  // what Commands::wait asks for
}

TEST_CASE("before its end a completion is neither done nor waited for") {
  const Completion completion;
  CHECK(!completion.done());
  CHECK(completion.gpu_ns() == 0);
  CHECK(!completion.wait_for(0));
  CHECK(!completion.wait_for(1000));
}

TEST_CASE("handlers see it done, run in order, and have returned when a waiter wakes") {
  Completion completion;
  std::vector<int> calls;
  completion.on_completed([&] { calls.push_back(completion.done() ? 1 : -1); });
  completion.on_completed([&] { calls.push_back(completion.gpu_ns() == 5 ? 2 : -2); });
  std::atomic<size_t> seen{0};
  std::thread waiter([&] {
    completion.wait_for(kLong);
    seen = calls.size();
  });
  completion.finish("", 5);
  waiter.join();
  CHECK(calls == std::vector<int>{1, 2});
  CHECK(seen == 2);
  CHECK(completion.wait_for(0));
}

TEST_CASE("whoever is told that all is settled need not sleep again: a wait returns at once") {
  Completion completion;
  std::vector<int> calls;
  completion.on_settled([&] { throw std::runtime_error("lost"); });
  completion.on_settled([&] { calls.push_back(completion.wait_for(0) ? 2 : -2); });
  completion.on_completed([&] { calls.push_back(completion.wait_for(0) ? -1 : 1); });
  completion.finish("", 0);
  CHECK(calls == std::vector<int>{1, 2});
  CHECK(completion.wait_for(0));  // what it threw is no error of the device's
}

TEST_CASE("every wait throws the stored error, also on several threads at once") {
  Completion completion;
  std::atomic<int> caught{0};
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; i++) {
    waiters.emplace_back([&] {
      for (int again = 0; again < 2; again++) {
        try {
          completion.wait_for(kLong);
        } catch (const GpuError& error) {
          caught += std::string(error.what()) == "page fault";
        }
      }
    });
  }
  completion.finish("page fault", 0);
  for (auto& waiter : waiters) waiter.join();
  CHECK(caught == 8);
}

TEST_CASE("what a handler throws is an error, unless there is one, and the others still run") {
  for (const std::string own : {"", "page fault"}) {
    Completion completion;
    int calls = 0;
    completion.on_completed([] { throw std::runtime_error("no"); });
    completion.on_completed([] { throw 1; });
    completion.on_completed([&] { calls++; });
    completion.finish(own, 0);
    CHECK(calls == 1);
    const std::string expected = own.empty() ? "a completed handler failed: no" : own;
    CHECK_THROWS_WITH_AS(completion.wait_for(0), doctest::Contains(expected.c_str()), GpuError);
  }
}
