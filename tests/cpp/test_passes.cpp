#include <doctest/doctest.h>

#include <sstream>
#include <string>

#include "engine/passes.h"

using moeflux::engine::next_pass;
using moeflux::engine::Remaining;
using moeflux::engine::Share;

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
