// How hard the host device looks. The shipped device takes the defaults: everything in order,
// canaries round buffers. Builds with MOEFLUX_HOST_CHECKS (tests) can ask for more.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

#include "device/recording.h"

namespace moeflux::device::host {

struct Options {
  // Not 0: threads and threadgroups run in a random legal order. Results must not depend on it.
  uint32_t seed = 0;
  // The order in which a recording's dispatches run, as indices of them; null: theirs.
  std::vector<size_t> (*order)(const Recording& recording, std::mt19937& random) = nullptr;
  uint32_t max_delay_us = 0;  // each command buffer starts late by up to this, at random
  bool guard_pages = false;   // no memory next to a buffer: a far access faults, too
  bool checked = false;       // made for tests: named so
};

// options_shipped.cpp: the defaults. tests/cpp/options_checked.cpp: from the environment, and a
// report of the kernel and argument when a shader faults.
Options options_of_this_build();

}  // namespace moeflux::device::host
