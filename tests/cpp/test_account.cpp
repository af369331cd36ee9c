#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/account.h"
#include "base/error.h"
#include "base/memory.h"

using moeflux::base::Account;
using moeflux::base::Memory;

TEST_CASE("live bytes never pass the limit and a refusal changes nothing") {
  Account account(100);
  CHECK(account.try_reserve(60));
  CHECK_FALSE(account.try_reserve(41));
  CHECK(account.live_bytes() == 60);
  CHECK(account.try_reserve(40));
  account.release(100);
  CHECK(account.live_bytes() == 0);
  CHECK(account.peak_bytes() == 100);
  CHECK_FALSE(account.try_reserve(UINT64_MAX));
}

TEST_CASE("a refusal names what it takes") {
  Account account(100);
  account.reserve(30, "weights");
  try {
    account.reserve(71, "a slot");
    FAIL("expected MemoryBudgetError");
  } catch (const moeflux::MemoryBudgetError& error) {
    const std::string text = error.what();
    CHECK(text.find("a slot") != std::string::npos);
    CHECK(text.find("memory=101") != std::string::npos);
  }
}

TEST_CASE("concurrent reservations and releases balance") {
  Account account(1000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 5000; ++n)
        if (account.try_reserve(300)) account.release(300);
    });
  for (auto& thread : threads) thread.join();
  CHECK(account.live_bytes() == 0);
  CHECK(account.peak_bytes() <= 1000);
}

TEST_CASE("memory is aligned, zeroed, booked in whole pages and released") {
  Account account(1 << 20);
  {
    Memory memory(account, 5000, "test");
    CHECK(reinterpret_cast<uintptr_t>(memory.data()) % 4096 == 0);
    CHECK(account.live_bytes() == 8192);
    for (int i = 0; i < 5000; ++i) REQUIRE(memory.data()[i] == std::byte{0});
    Memory moved = std::move(memory);
    CHECK(memory.data() == nullptr);
    moved = Memory(account, 1, "other");
    CHECK(account.live_bytes() == 4096);
  }
  CHECK(account.live_bytes() == 0);
  CHECK_THROWS_AS(Memory(account, 2 << 20, "too much"), moeflux::MemoryBudgetError);
  CHECK(account.live_bytes() == 0);
}
