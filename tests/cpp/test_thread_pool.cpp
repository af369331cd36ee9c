#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
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
