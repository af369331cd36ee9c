// How many of the places at which a fault can be injected are tried: one in kSparse of those that a
// test would take. A sanitizer looks for wrong accesses and not for places, and slows a test ten to
// twenty times.
#pragma once
#include <cstdint>

#ifndef MOEFLUX_TEST_SPARSE  // CMakeLists.txt sets it with a sanitizer
#define MOEFLUX_TEST_SPARSE 1
#endif
inline constexpr int64_t kSparse = MOEFLUX_TEST_SPARSE;
