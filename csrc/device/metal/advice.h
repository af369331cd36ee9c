// What a person can do about a command buffer that failed. No Objective-C here.
#pragma once
#include <cstdint>
#include <string_view>

namespace moeflux::device::metal {

// Of an error of MTLCommandBufferErrorDomain: its code, and its description, in which the driver
// has a finer code ("(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"). What it
// means and what to do, as one sentence or two; empty for a code that nothing is known of.
std::string_view advice(int64_t code, std::string_view description);

// Whether it says that the work held the GPU for too long: it ran.
bool was_too_long(int64_t code, std::string_view description);

}  // namespace moeflux::device::metal
