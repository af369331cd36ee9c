// Metal by its own calls, for the tests of the stand-in: what a correct program has ready before
// the one call that a test is about.
#pragma once
#import <Metal/Metal.h>
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "device/metal/text.h"
#include "metal/rig.h"

namespace moeflux::test {

using device::metal::Pool;
using device::metal::Retained;
using device::metal::to_nsstring;
using device::metal::to_string;

// Recorded as a violation, too: takes that one away.
#define CHECK_INVALID(call, text)                                          \
  do {                                                                     \
    CHECK_THROWS_WITH_AS(call, doctest::Contains(text), std::logic_error); \
    const auto violations = metal_standin::take_violations();              \
    REQUIRE(violations.size() == 1);                                       \
    CHECK(violations[0].find(text) != std::string::npos);                  \
  } while (false)

struct RawMetal {
  RawMetal() {
    library = Retained<id<MTLLibrary>>::adopt(
        [device.get() newLibraryWithSource:to_nsstring(source()).get() options:nil error:nil]);
    copy_pipeline = pipeline("copy");
  }

  Retained<id<MTLComputePipelineState>> pipeline(const char* kernel,
                                                 NSUInteger max_threads = 1024) {
    const auto function = Retained<id<MTLFunction>>::adopt(
        [library.get() newFunctionWithName:to_nsstring(kernel).get()]);
    const auto descriptor =
        Retained<MTLComputePipelineDescriptor*>::adopt([MTLComputePipelineDescriptor new]);
    descriptor.get().computeFunction = function.get();
    descriptor.get().maxTotalThreadsPerThreadgroup = max_threads;
    return Retained<id<MTLComputePipelineState>>::adopt([device.get()
        newComputePipelineStateWithDescriptor:descriptor.get()
                                      options:MTLPipelineOptionNone
                                   reflection:nil
                                        error:nil]);
  }

  Retained<id<MTLBuffer>> buffer(NSUInteger nbytes,
                                 MTLResourceOptions options = MTLResourceStorageModeShared) {
    return Retained<id<MTLBuffer>>::adopt([device.get() newBufferWithLength:nbytes
                                                                    options:options]);
  }

  // Encodes copy(in, out, n).
  void copy(id<MTLComputeCommandEncoder> encoder, id<MTLBuffer> in, NSUInteger in_offset,
            id<MTLBuffer> out, NSUInteger out_offset, uint32_t n) {
    [encoder setComputePipelineState:copy_pipeline.get()];
    [encoder setBuffer:in offset:in_offset atIndex:0];
    [encoder setBuffer:out offset:out_offset atIndex:1];
    [encoder setBytes:&n length:4 atIndex:2];
    [encoder dispatchThreads:MTLSizeMake(n, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
  }

  const Pool pool;
  Retained<id<MTLDevice>> device = Retained<id<MTLDevice>>::adopt(MTLCreateSystemDefaultDevice());
  Retained<id<MTLCommandQueue>> queue =
      Retained<id<MTLCommandQueue>>::adopt([device.get() newCommandQueue]);
  Retained<id<MTLLibrary>> library;
  Retained<id<MTLComputePipelineState>> copy_pipeline;
};

// Commits and waits; the error's text, empty for none.
inline std::string finish(id<MTLCommandBuffer> commands) {
  [commands commit];
  [commands waitUntilCompleted];
  return to_string(commands.error.localizedDescription);
}

}  // namespace moeflux::test
