#include <doctest/doctest.h>

#include <sstream>
#include <string>

#include "engine/passes.h"

using moeflux::engine::next_pass;
using moeflux::engine::Remaining;
using moeflux::engine::Share;
using moeflux::engine::Slice;
using moeflux::engine::slices_of;

namespace {

// The shares of every pass, "request:tokens ..." a pass.
std::vector<std::string> passes(std::vector<Remaining> requests, uint32_t rows, uint32_t chunk) {
  std::vector<std::string> all;
  for (auto pass = next_pass(requests, rows, chunk); !pass.empty();
       pass = next_pass(requests, rows, chunk)) {
    std::ostringstream text;
    uint32_t sum = 0;
    for (const Share& share : pass) {
      REQUIRE(share.n > 0);
      REQUIRE(share.n <= requests[share.request].n);
      REQUIRE(share.begin == requests[share.request].done);
      requests[share.request].done += share.n;
      requests[share.request].n -= share.n;
      requests[share.request].position += share.n;
      text << (sum ? " " : "") << share.request << ":" << share.n;
      sum += share.n;
    }
    REQUIRE(sum <= rows);
    all.push_back(text.str());
    REQUIRE(all.size() < 1000);
  }
  for (const Remaining& request : requests) CHECK(request.n == 0);
  return all;
}

using Table = std::vector<std::string>;

}  // namespace

TEST_CASE("a session alone is cut at multiples of the chunk, counted from position 0") {
  CHECK(passes({{0, 20}}, 8, 8) == Table{"0:8", "0:8", "0:4"});
  CHECK(passes({{5, 12}}, 8, 8) == Table{"0:3", "0:8", "0:1"});
  CHECK(passes({{7, 1}}, 8, 8) == Table{"0:1"});
  CHECK(passes({}, 8, 8).empty());
}

TEST_CASE("decode goes whole, and prefill divides what is left") {
  CHECK(passes({{3, 1}, {0, 20}, {9, 1}}, 8, 8) == Table{"0:1 1:6 2:1", "1:2", "1:8", "1:4"});
  CHECK(passes({{0, 16}, {0, 16}}, 8, 8) == Table{"0:4 1:4", "0:4 1:4", "0:4 1:4", "0:4 1:4"});
  CHECK(passes({{0, 2}, {0, 9}, {0, 9}}, 8, 16) == Table{"0:2 1:3 2:3", "1:4 2:4", "1:2 2:2"});
}

TEST_CASE("more sessions than rows take turns") {
  CHECK(passes({{0, 1}, {0, 1}, {0, 1}}, 2, 8) == Table{"0:1 1:1", "2:1"});
  CHECK(passes({{0, 3}, {0, 1}, {0, 1}}, 2, 8).size() == 3);
}

TEST_CASE("a wide pass has several chunks of a session, and ends where one ends") {
  CHECK(passes({{0, 20}}, 16, 8) == Table{"0:8 0:8", "0:4"});
  CHECK(passes({{0, 20}}, 23, 8) == Table{"0:8 0:8 0:4"});
  CHECK(passes({{5, 30}}, 16, 8) == Table{"0:3 0:8", "0:8 0:8", "0:3"});
  CHECK(passes({{5, 30}}, 12, 8) == Table{"0:3 0:8", "0:8", "0:8 0:3"});
  CHECK(passes({{0, 40}, {9, 1}, {4, 40}}, 32, 8) ==
        Table{"0:8 0:8 1:1 2:4 2:8", "0:8 0:8 2:8 2:8", "0:8 2:8 2:4"});
}

TEST_CASE("a slice has a chunk's rows at most, and a session once") {
  const auto slices = [](std::vector<Share> shares, uint32_t chunk) {
    std::ostringstream text;
    for (const Slice& slice : slices_of(shares, chunk)) {
      uint32_t n = 0;
      for (const Share& share : slice.shares) n += share.n;
      REQUIRE(n == slice.n);
      text << slice.row << "+" << slice.n << "/" << slice.shares.size() << " ";
    }
    return text.str();
  };
  CHECK(slices({{0, 8}}, 8) == "0+8/1 ");
  CHECK(slices({{0, 3}, {0, 5}}, 8) == "0+3/1 3+5/1 ");
  CHECK(slices({{0, 1}, {1, 1}, {2, 7}, {3, 1}}, 8) == "0+2/2 2+8/2 ");
  CHECK(slices({{0, 8}, {0, 2}, {1, 4}, {1, 8}}, 8) == "0+8/1 8+6/2 14+8/1 ");
}
