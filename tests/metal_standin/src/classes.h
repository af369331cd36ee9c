// The stand-in's classes behind Metal's protocols. Instance variables stand in the interfaces:
// GCC's runtime has the fragile ABI.
#pragma once
#import <Metal/Metal.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "metal_standin.h"
#include "program.h"
#include "worker.h"

@interface StandinCompileOptions : MTLCompileOptions {
 @public
  metal_standin::CompileOptions _options;
}
@end

@interface StandinConstants : MTLFunctionConstantValues {
 @public
  std::map<NSUInteger, uint32_t> _values;
}
@end

@interface StandinCaptureDescriptor : MTLCaptureDescriptor {
 @public
  id _captureObject;
  MTLCaptureDestination _destination;
  NSURL* _outputURL;
}
@end

@interface StandinPipelineDescriptor : MTLComputePipelineDescriptor {
 @public
  id<MTLFunction> _function;
  NSUInteger _maxThreads;
}
@end

@interface StandinBuffer : NSObject <MTLBuffer> {
 @public
  std::shared_ptr<metal_standin::Storage> _storage;
  MTLResourceOptions _options;
  void (^_deallocator)(void*, NSUInteger);
  std::atomic<int> _sets;  // residency sets that it is in
}
@end

@interface StandinLibrary : NSObject <MTLLibrary> {
 @public
  std::string _source;
}
@end

@interface StandinFunction : NSObject <MTLFunction> {
 @public
  std::string _kernelName;
  MTLFunctionType _type;
  std::map<NSUInteger, uint32_t> _constants;
}
@end

@interface StandinPipeline : NSObject <MTLComputePipelineState> {
 @public
  const metal_standin::Kernel* _kernel;
  std::vector<uint64_t> _constants;
  NSUInteger _maxThreads, _simdWidth;
}
@end

namespace metal_standin {

// The threads of a queue, and how many command buffers it has handed out that are not completed.
struct QueueState {
  Worker gpu, completion;
  std::mutex mutex;
  std::condition_variable changed;
  int open = 0;
  bool ignores = false;  // of the GPU thread: after a fault that ends the queue
};

}  // namespace metal_standin

@interface StandinQueue : NSObject <MTLCommandQueue> {
 @public
  std::shared_ptr<metal_standin::QueueState> _state;
  std::vector<id> _residencySets;  // retained
}
@end

@interface StandinResidencySet : NSObject <MTLResidencySet> {
 @public
  std::mutex _mutex;
  std::map<id, bool> _members;  // not retained; whether the last commit has seen it
  std::vector<std::shared_ptr<metal_standin::Storage>> _removed;  // since the last commit
}
@end

@interface StandinCommandBuffer : NSObject <MTLCommandBuffer> {
 @public
  std::shared_ptr<metal_standin::QueueState> _queue;
  std::unique_ptr<metal_standin::Program> _program;
  std::vector<id> _kept;  // retained until completion
  std::vector<MTLCommandBufferHandler> _handlers;
  BOOL _retains, _encoding, _counted;
  std::mutex _mutex;  // of what follows
  std::condition_variable _changed;
  MTLCommandBufferStatus _status;
  NSError* _error;
  CFTimeInterval _start, _end;
}
- (void)keep:(id)object;
@end

@interface StandinEncoder : NSObject <MTLComputeCommandEncoder> {
 @public
  StandinCommandBuffer* _buffer;  // retained
  StandinPipeline* _pipeline;
  std::array<metal_standin::Bound, metal_standin::kMaxBindings> _bound;
  std::array<NSUInteger, metal_standin::kMaxBindings> _threadgroupBytes;
  std::array<std::shared_ptr<metal_standin::Storage>, metal_standin::kMaxBindings> _storages;
  std::vector<std::shared_ptr<metal_standin::Storage>> _resident;  // of useResources
  BOOL _concurrent, _newGroup, _ended;
}
@end
