#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread_pool.h"

using moeflux::base::ThreadPool;

TEST_CASE("every task runs exactly once whatever the thread count") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(n);
      pool.parallel_for(n, [&](int task, int worker) {
        REQUIRE(worker < threads);
        ++runs[task];
      });
      for (auto& count : runs) CHECK(count == 1);
    }
  }
}

TEST_CASE("ranges hold every task exactly once, a thread alone takes them in order") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int n : {0, 1, 2, 7, 63, 1000}) {
      std::vector<std::atomic<int>> runs(n);
      std::atomic<int> calls = 0;
      int next = 0;
      pool.parallel_ranges(n, [&](int begin, int end, int) {
        REQUIRE(begin < end);
        REQUIRE(end - begin <= int(ThreadPool::kMostTasks));
        if (threads == 1) REQUIRE(begin == std::exchange(next, end));
        ++calls;
        for (int task = begin; task < end; ++task) ++runs[task];
      });
      for (auto& count : runs) CHECK(count == 1);
      if (threads == 1 && n == 1000) CHECK(calls < n / 10);  // tasks do go together
    }
  }
}

TEST_CASE("an exception of a task reaches the caller and the pool lives on") {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round)
    CHECK_THROWS_AS(pool.parallel_for(100,
                                      [](int task, int) {
                                        if (task == 37) throw std::runtime_error("37");
                                      }),
                    std::runtime_error);
  std::atomic<int> runs = 0;
  pool.parallel_for(10, [&](int, int) { ++runs; });
  CHECK(runs == 10);
}

TEST_CASE("an interrupt between tasks stops the rest") {
  ThreadPool pool(2);
  struct Interrupt {};
  pool.set_poll([] { throw Interrupt{}; });
  std::atomic<int> runs = 0;
  CHECK_THROWS_AS(pool.parallel_for(100000,
                                    [&](int, int) {
                                      ++runs;
                                      std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                    }),
                  Interrupt);
  CHECK(runs < 100000);
}

TEST_CASE("a thread that has nothing left takes what waits behind a long task") {
  ThreadPool pool(2);
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::atomic<int> others = 0;
  pool.parallel_for(100, [&](int task, int) {
    if (task != 0) ++others;
    while (task == 0 && others < 99 && std::chrono::steady_clock::now() < give_up)
      std::this_thread::yield();
  });
  CHECK(others == 99);
  CHECK(std::chrono::steady_clock::now() < give_up);
}

TEST_CASE("a thread alone runs its tasks in order") {
  ThreadPool pool(1);
  std::vector<int> order;
  pool.parallel_for(50, [&](int task, int) { order.push_back(task); });
  for (int task = 0; task < 50; ++task) CHECK(order.at(task) == task);
}
