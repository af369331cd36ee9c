#include "block.h"
#include "classes.h"
#include "control.h"
#include "text.h"

using metal_standin::check;
using metal_standin::fails;
using metal_standin::Fault;
using metal_standin::kPageBytes;
using metal_standin::make_error;

NSErrorDomain const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";
NSErrorDomain const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";

namespace {

constexpr NSUInteger kMaxThreads = 1024, kMaxThreadgroupBytes = 32768, kSimdWidth = 32;
// A compiler that is told no size may trade threads for registers.
constexpr NSUInteger kUntoldThreads = 448;
constexpr NSUInteger kMaxBufferBytes = NSUInteger(1) << 34;

StandinBuffer* new_buffer(std::shared_ptr<metal_standin::Storage> storage,
                          MTLResourceOptions options) {
  StandinBuffer* buffer = [StandinBuffer new];
  buffer->_storage = std::move(storage);
  buffer->_options = options;
  return buffer;
}

// The value of each function constant that the kernel's table names; empty and false: one is
// missing.
bool find_constants(const StandinFunction* function, const moeflux::device::KernelInfo& info,
                    std::vector<uint64_t>& values) {
  for (const auto& constant : info.constants) {
    const auto found = function->_constants.find(constant.index);
    if (found == function->_constants.end()) return false;
    values.push_back(found->second);
  }
  return true;
}

void fail(NSError** error, NSInteger code, const std::string& text) {
  if (error) *error = make_error(MTLLibraryErrorDomain, code, text);
}

}  // namespace

@interface StandinDevice : NSObject <MTLDevice>
@end

@implementation StandinDevice
- (NSString*)name {
  return @"Metal stand-in";
}
- (MTLSize)maxThreadsPerThreadgroup {
  return MTLSizeMake(kMaxThreads, kMaxThreads, kMaxThreads);
}
- (NSUInteger)maxThreadgroupMemoryLength {
  return kMaxThreadgroupBytes;
}
- (NSUInteger)maxBufferLength {
  return kMaxBufferBytes;
}
- (uint64_t)recommendedMaxWorkingSetSize {
  return kMaxBufferBytes;
}
- (BOOL)hasUnifiedMemory {
  return YES;
}
- (BOOL)supportsFamily:(MTLGPUFamily)gpuFamily {
  return gpuFamily <= MTLGPUFamilyApple7 && !fails(Fault::family);
}
- (id<MTLCommandQueue>)newCommandQueue {
  if (fails(Fault::queue)) return nil;
  StandinQueue* queue = [StandinQueue new];
  queue->_state = std::make_shared<metal_standin::QueueState>();
  return queue;
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor*)descriptor
                                               error:(NSError**)error {
  check(descriptor != nil, "newResidencySet: of no descriptor");
  if (fails(Fault::residency)) {
    fail(error, MTLLibraryErrorInternal, "no residency set (injected)");
    return nil;
  }
  return [StandinResidencySet new];
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  check(!(options & MTLResourceHazardTrackingModeUntracked), "untracked: not modelled here");
  if (!length || length > self.maxBufferLength || fails(Fault::buffer)) return nil;
  return new_buffer(std::make_shared<metal_standin::Storage>(length), options);
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void*)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void*, NSUInteger))deallocator {
  check(!(options & MTLResourceHazardTrackingModeUntracked), "untracked: not modelled here");
  check((uintptr_t)pointer % kPageBytes == 0, "newBufferWithBytesNoCopy: pointer not on a page");
  check(length && length % kPageBytes == 0, "newBufferWithBytesNoCopy: length not whole pages");
  if (length > self.maxBufferLength || fails(Fault::buffer)) return nil;
  StandinBuffer* buffer = new_buffer(
      std::make_shared<metal_standin::Storage>(static_cast<std::byte*>(pointer), length), options);
  if (deallocator) buffer->_deallocator = Block_copy(deallocator);
  return buffer;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString*)source
                               options:(MTLCompileOptions*)options
                                 error:(NSError**)error {
  check(source != nil, "newLibraryWithSource: nil");
  if (options) metal_standin::set_compile_options(((StandinCompileOptions*)options)->_options);
  const std::string text = source.UTF8String;
  if (const auto at = text.find("#error "); at != std::string::npos || fails(Fault::library)) {
    const std::string reason = at == std::string::npos
                                   ? "compiler service is gone (injected)"
                                   : text.substr(at + 7, text.find('\n', at) - at - 7);
    fail(error, MTLLibraryErrorCompileFailure, "program_source:1:2: error: " + reason);
    return nil;
  }
  StandinLibrary* library = [StandinLibrary new];
  library->_source = text;
  return library;
}
- (id<MTLComputePipelineState>)
    newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor*)descriptor
                                  options:(MTLPipelineOption)options
                               reflection:(MTLAutoreleasedComputePipelineReflection*)reflection
                                    error:(NSError**)error {
  check(descriptor.computeFunction, "newComputePipelineState: of no function");
  check(descriptor.computeFunction.functionType == MTLFunctionTypeKernel,
        "newComputePipelineState: of a function that is no kernel");
  check(descriptor.maxTotalThreadsPerThreadgroup <= kMaxThreads,
        "newComputePipelineState: maxTotalThreadsPerThreadgroup over 1024");
  const auto* function = (StandinFunction*)descriptor.computeFunction;
  const metal_standin::Kernel* kernel = metal_standin::find_kernel(function->_kernelName);
  if (!kernel || fails(Fault::pipeline)) {
    fail(error, MTLLibraryErrorInternal, "Compiler encountered an internal error");
    return nil;
  }
  std::vector<uint64_t> constants;
  if (!find_constants(function, *kernel->info, constants)) {
    fail(error, MTLLibraryErrorInternal, "a function constant has no value");
    return nil;
  }
  const NSUInteger told = descriptor.maxTotalThreadsPerThreadgroup;
  StandinPipeline* pipeline = [StandinPipeline new];
  pipeline->_kernel = kernel;
  pipeline->_constants = std::move(constants);
  pipeline->_maxThreads = told ? told : kUntoldThreads;
  pipeline->_simdWidth = fails(Fault::simd_width) ? kSimdWidth / 2 : kSimdWidth;
  return pipeline;
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
  return fails(Fault::device) ? nil : [StandinDevice new];
}
