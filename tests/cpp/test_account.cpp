#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/account.h"
#include "base/error.h"

using moeflux::base::Account;
using moeflux::base::Booking;

TEST_CASE("live bytes never pass the limit and a refusal changes nothing") {
  Account account(100);
  CHECK(account.try_reserve(60));
  CHECK_FALSE(account.try_reserve(41));
  CHECK(account.live_bytes() == 60);
  CHECK(account.try_reserve(40));
  account.release(100);
  CHECK(account.live_bytes() == 0);
  CHECK(account.peak_bytes() == 100);
  CHECK(account.try_reserve(10));
  CHECK(account.peak_bytes() == 100);
  CHECK_FALSE(account.try_reserve(UINT64_MAX));  // the sum wraps round
  CHECK(account.live_bytes() == 10);
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

TEST_CASE("a booking lives as long as its object, and moves") {
  Account account(100);
  {
    Booking booking(account, 60, "tables");
    Booking moved = std::move(booking);
    CHECK(account.live_bytes() == 60);
    moved = Booking(account, 30, "others");
    CHECK(account.live_bytes() == 30);
    CHECK_THROWS_AS(Booking(account, 71, "too much"), moeflux::MemoryBudgetError);
  }
  CHECK(account.live_bytes() == 0);
}

TEST_CASE("a limit moves, but not below what is booked") {
  Account account(100);
  account.reserve(60, "half");
  CHECK_FALSE(account.try_set_limit(59));
  CHECK(account.limit_bytes() == 100);
  CHECK(account.try_set_limit(60));
  CHECK(account.free_bytes() == 0);
  CHECK_FALSE(account.try_reserve(1));
  CHECK(account.try_set_limit(200));
  CHECK(account.try_reserve(140));
}
