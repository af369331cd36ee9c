#include <doctest/doctest.h>

#include "engine/trust.h"

using moeflux::engine::Trust;

TEST_CASE("guesses are trusted until they fail too often, and again when they come true") {
  Trust trust(2);
  CHECK(trust.holds(0));
  for (int i = 0; i < 1000; ++i) trust.see(0, 3, 4);
  CHECK(trust.holds(0));
  trust.see(0, 0, 8);  // one bad token is none
  CHECK(trust.holds(0));
  for (int i = 0; i < 1000; ++i) trust.see(0, 1, 4);
  CHECK_FALSE(trust.holds(0));
  CHECK(trust.holds(1));                              // a layer of its own
  for (int i = 0; i < 1000; ++i) trust.see(0, 0, 0);  // nothing guessed says nothing
  CHECK_FALSE(trust.holds(0));
  for (int i = 0; i < 1000; ++i) trust.see(0, 4, 4);
  CHECK(trust.holds(0));
}
