// Command buffers and their queue: commit hands the program to the queue's thread, handlers run on
// another.
#include <chrono>
#include <utility>

#include "block.h"
#include "classes.h"
#include "control.h"
#include "text.h"

using metal_standin::check;
using metal_standin::Fault;
using metal_standin::GpuFault;
using metal_standin::QueueState;

namespace {

constexpr int kMaxOpen = 64;  // command buffers of a queue that are not completed; newCommandQueue
constexpr size_t kMaxSets = 32;  // residency sets of a queue

CFTimeInterval now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

@interface StandinCommandBuffer (Running)
- (void)run;
- (void)complete;
@end

@implementation StandinCommandBuffer
- (void)keep:(id)object {
  if (_retains && object) _kept.push_back([object retain]);
}
- (MTLCommandBufferStatus)status {
  const std::lock_guard lock(_mutex);
  return _status;
}
- (NSError*)error {
  const std::lock_guard lock(_mutex);
  return [[_error retain] autorelease];
}
- (CFTimeInterval)GPUStartTime {
  const std::lock_guard lock(_mutex);
  return _start;
}
- (CFTimeInterval)GPUEndTime {
  const std::lock_guard lock(_mutex);
  return _end;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type {
  check(!_encoding, "computeCommandEncoder: a second one is open");
  check(self.status < MTLCommandBufferStatusCommitted, "computeCommandEncoder: after commit");
  if (metal_standin::fails(Fault::encoder)) return nil;
  StandinEncoder* encoder = [StandinEncoder new];
  encoder->_buffer = [self retain];
  encoder->_concurrent = type == MTLDispatchTypeConcurrent;
  encoder->_newGroup = YES;
  _encoding = YES;
  return [encoder autorelease];
}
- (void)addCompletedHandler:(MTLCommandBufferHandler)block {
  check(self.status < MTLCommandBufferStatusCommitted, "addCompletedHandler: after commit");
  _handlers.push_back(Block_copy(block));
}
- (void)commit {
  check(!_encoding, "commit: with an open encoder");
  {
    const std::lock_guard lock(_mutex);
    check(_status < MTLCommandBufferStatusCommitted, "commit: twice");
    _status = MTLCommandBufferStatusCommitted;
  }
  _program->commit();
  [self retain];  // released by -complete
  _queue->gpu.push([self] { [self run]; });
}
- (void)run {  // on the queue's GPU thread
  @autoreleasepool {
    metal_standin::random_delay();
    NSError* error = nil;
    const CFTimeInterval start = now();
    try {
      if (_queue->ignores)
        throw GpuFault(4, "Ignored (for causing prior/excessive GPU errors) "
                          "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)");
      _program->run();
    } catch (const GpuFault& fault) {
      _queue->ignores = _queue->ignores || fault.ends_queue;
      error = metal_standin::make_error(MTLCommandBufferErrorDomain, fault.code, fault.what());
    }
    const CFTimeInterval end = now();
    _program.reset();
    for (id object : std::exchange(_kept, {})) [object release];
    [self leaveQueue];
    {
      const std::lock_guard lock(_mutex);
      const bool told = !error || metal_standin::tells_times();
      _start = told ? start : 0;
      _end = told ? end : 0;
      _error = [error retain];
      _status = error ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
      _changed.notify_all();
    }
    const auto queue = _queue;
    queue->completion.push([self] { [self complete]; });  // which may end this object
  }
}
- (void)complete {  // on the queue's completion thread
  @autoreleasepool {
    metal_standin::random_delay();
    for (MTLCommandBufferHandler handler : std::exchange(_handlers, {})) {
      handler(self);
      Block_release(handler);
    }
    [self release];
  }
}
- (void)waitUntilCompleted {  // handlers may run later, as with Metal
  check(self.status >= MTLCommandBufferStatusCommitted, "waitUntilCompleted: before commit");
  std::unique_lock lock(_mutex);
  _changed.wait(lock, [&] { return _status >= MTLCommandBufferStatusCompleted; });
}
- (void)leaveQueue {
  const std::lock_guard lock(_queue->mutex);
  if (std::exchange(_counted, NO)) _queue->open--;
  _queue->changed.notify_all();
}
- (void)dealloc {
  [self leaveQueue];
  for (id object : _kept) [object release];
  for (MTLCommandBufferHandler handler : _handlers) Block_release(handler);
  [_error release];
  [super dealloc];
}
@end

@implementation StandinQueue
- (StandinCommandBuffer*)newCommandBuffer {
  if (metal_standin::fails(Fault::command_buffer)) return nil;
  {
    std::unique_lock lock(_state->mutex);
    const auto limit = std::chrono::milliseconds(metal_standin::queue_timeout_ms());
    check(_state->changed.wait_for(lock, limit, [&] { return _state->open < kMaxOpen; }),
          "commandBuffer: blocks for ever, 64 of the queue are not completed");
    _state->open++;
  }
  StandinCommandBuffer* buffer = [StandinCommandBuffer new];
  buffer->_queue = _state;
  buffer->_counted = YES;
  buffer->_program = std::make_unique<metal_standin::Program>();
  return buffer;
}
- (id<MTLCommandBuffer>)commandBuffer {
  StandinCommandBuffer* buffer = [self newCommandBuffer];
  if (buffer) buffer->_retains = YES;
  return [buffer autorelease];
}
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences {
  return [[self newCommandBuffer] autorelease];
}
- (void)addResidencySet:(id<MTLResidencySet>)residencySet {
  check(residencySet && _residencySets.size() < kMaxSets,
        "addResidencySet: nil, or more than 32 of a queue");
  _residencySets.push_back([residencySet retain]);
}
- (void)dealloc {
  for (id set : _residencySets) [set release];
  [super dealloc];
}
@end
