// How hard the host device looks. The shipped device takes the defaults: everything in order,
// canaries round buffers. Builds with MOEFLUX_HOST_CHECKS (tests) can ask for more.
#pragma once
#include <cstdint>

namespace moeflux::device::host {

struct Options {
  // Not 0: threads, threadgroups and dispatches that do not touch each other's memory run in a
  // random legal order. Results must not depend on it.
  uint32_t seed = 0;
  uint32_t max_delay_us = 0;  // each command buffer starts late by up to this, at random
  bool guard_pages = false;   // no memory next to a buffer: a far access faults, too
  bool checked = false;       // made for tests: named so
};

// options_shipped.cpp: the defaults. options_checked.cpp: from the environment, and a report of the
// kernel and argument when a shader faults.
Options options_of_this_build();

}  // namespace moeflux::device::host
