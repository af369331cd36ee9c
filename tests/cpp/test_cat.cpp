#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace moeflux {

TEST_CASE("texts of every kind and numbers are joined in order") {
  const std::string text = "a";
  CHECK(cat("x ", text, std::string_view("yz", 1), "", std::string(2, '-')) == "x ay--");
  CHECK(cat(int8_t(-1), " ", uint8_t(65), " ", INT64_MIN, " ", UINT64_MAX) ==
        "-1 65 -9223372036854775808 18446744073709551615");
  CHECK(cat(true, " ", 0.5f, " ", -1e20) == "1 0.500000 -100000000000000000000.000000");
}

TEST_CASE("an error's message is its parts, and copies keep it") {
  const FormatError error("[base::cat] expected ", 1, ", found ", std::string("none"));
  CHECK(std::string(error.what()) == "[base::cat] expected 1, found none");
  CHECK(std::string(FormatError(error).what()) == error.what());
  CHECK(std::string(Error(error).what()) == error.what());
}

}  // namespace moeflux
