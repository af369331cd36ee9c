// The orders in which a recording's steps may run without anybody seeing a difference.
#pragma once
#include <cstddef>
#include <random>
#include <vector>

#include "device/recording.h"

namespace moeflux::device::host {

// A random one, as indices of recording.steps(): dispatches of which one writes what the other
// reads or writes keep their order, signals and waits keep theirs with everything.
std::vector<size_t> random_legal_order(const Recording& recording, std::mt19937& random);

}  // namespace moeflux::device::host
