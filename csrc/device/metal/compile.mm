#include "device/metal/compile.h"

#include "base/error.h"
#include "device/metal/sdk.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {

Retained<id<MTLLibrary>> compile_library(id<MTLDevice> device, std::string_view source) {
  auto options = Retained<MTLCompileOptions*>::adopt([MTLCompileOptions new]);
  options.get().languageVersion = MTLLanguageVersion2_4;
  // Safe math by either name: macOS 15 brought mathMode, and until then this was the only switch.
  options.get().fastMathEnabled = NO;
#if MOEFLUX_SDK_15
  if (@available(macOS 15, *)) options.get().mathMode = MTLMathModeSafe;
#endif
  const auto text = to_nsstring(source);
  if (!text) throw LibraryCompileError("[device::Metal] expected source in UTF-8");
  NSError* error = nil;
  auto library = Retained<id<MTLLibrary>>::adopt([device newLibraryWithSource:text.get()
                                                                      options:options.get()
                                                                        error:&error]);
  if (!library)
    throw LibraryCompileError("[device::Metal] the shader library does not compile:\n",
                              describe(error));
  return library;
}

Retained<id<MTLComputePipelineState>> make_state(id<MTLDevice> device, id<MTLFunction> function,
                                                 std::string_view name, NSUInteger threads) {
  auto descriptor =
      Retained<MTLComputePipelineDescriptor*>::adopt([MTLComputePipelineDescriptor new]);
  descriptor.get().computeFunction = function;
  if (threads) descriptor.get().maxTotalThreadsPerThreadgroup = threads;
  NSError* error = nil;
  auto state = Retained<id<MTLComputePipelineState>>::adopt([device
      newComputePipelineStateWithDescriptor:descriptor.get()
                                    options:MTLPipelineOptionNone
                                 reflection:nil
                                      error:&error]);
  if (!state)
    throw PipelineError("[device::Metal] cannot make a pipeline of ", name, ": ", describe(error));
  return state;
}

}  // namespace moeflux::device::metal
