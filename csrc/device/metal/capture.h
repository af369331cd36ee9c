// Recording of what the GPU does into a ".gputrace" document, which Xcode opens. One of a process at
// a time. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include <string>

namespace moeflux::device::metal {

// Throws GpuError.
void begin_capture(id<MTLDevice> device, const std::string& path);
void end_capture();

}  // namespace moeflux::device::metal
