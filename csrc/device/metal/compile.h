// From source to pipeline states, by Metal's compiler. For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include <string_view>

#include "device/metal/retained.h"

namespace moeflux::device::metal {

// With safe math. Throws LibraryCompileError with the compiler's text.
Retained<id<MTLLibrary>> compile_library(id<MTLDevice> device, std::string_view source);

// Told of so many threads a threadgroup; 0: of none. Throws PipelineError.
Retained<id<MTLComputePipelineState>> make_state(id<MTLDevice> device, id<MTLFunction> function,
                                                 std::string_view name, NSUInteger threads);

}  // namespace moeflux::device::metal
