// The orders in which a recording's dispatches may run without a difference in any result.
#pragma once
#include <cstddef>
#include <random>
#include <vector>

#include "device/recording.h"

namespace moeflux::device::host {

// A random one, as indices of recording.dispatches(): two of which one writes what the other reads
// or writes keep their order.
std::vector<size_t> random_legal_order(const Recording& recording, std::mt19937& random);

}  // namespace moeflux::device::host
