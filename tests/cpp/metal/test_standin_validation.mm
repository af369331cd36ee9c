// The stand-in refuses what Metal's validation layer stops a process for.
#include "metal/raw_metal.h"

using namespace moeflux::test;

namespace {

struct Open : RawMetal {  // a command buffer with an open encoder
  id<MTLCommandBuffer> commands = [queue.get() commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  Retained<id<MTLBuffer>> memory = buffer(64);

  void prepare() {  // all that a copy needs before its dispatch
    const uint32_t n = 1;
    [encoder setComputePipelineState:copy_pipeline.get()];
    [encoder setBuffer:memory.get() offset:0 atIndex:0];
    [encoder setBuffer:memory.get() offset:0 atIndex:1];
    [encoder setBytes:&n length:4 atIndex:2];
  }
  void dispatch(MTLSize grid = MTLSizeMake(1, 1, 1), MTLSize group = MTLSizeMake(1, 1, 1)) {
    [encoder dispatchThreads:grid threadsPerThreadgroup:group];
  }
  ~Open() { [encoder endEncoding]; }
};

}  // namespace

TEST_CASE("stand-in: one encoder at a time, and none after commit") {
  const Clean clean;
  Open open;
  CHECK_INVALID([open.commands computeCommandEncoder], "a second one is open");
  const RawMetal metal;
  id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
  CHECK(finish(commands).empty());
  CHECK_INVALID([commands computeCommandEncoder], "after commit");
}

TEST_CASE("stand-in: commit once, with no encoder open, before the wait") {
  const Clean clean;
  Open open;
  CHECK_INVALID([open.commands commit], "with an open encoder");
  CHECK_INVALID([open.commands waitUntilCompleted], "before commit");
  const RawMetal metal;
  id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
  CHECK(finish(commands).empty());
  CHECK_INVALID([commands commit], "commit: twice");
  CHECK_INVALID([commands addCompletedHandler:^(id<MTLCommandBuffer>){
                }],
                "after commit");
}

TEST_CASE("stand-in: nothing is encoded after endEncoding") {
  const Clean clean;
  const RawMetal metal;
  const auto memory = RawMetal().buffer(64);
  const uint32_t n = 1;
  id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  [encoder endEncoding];
  CHECK_INVALID([encoder endEncoding], "twice");
  CHECK_INVALID([encoder setComputePipelineState:metal.copy_pipeline.get()], "after endEncoding");
  CHECK_INVALID([encoder setBuffer:memory.get() offset:0 atIndex:0], "after endEncoding");
  CHECK_INVALID([encoder setBytes:&n length:4 atIndex:0], "after endEncoding");
  CHECK_INVALID([encoder setThreadgroupMemoryLength:16 atIndex:0], "after endEncoding");
  CHECK_INVALID([encoder memoryBarrierWithScope:MTLBarrierScopeBuffers], "after endEncoding");
  CHECK_INVALID([encoder dispatchThreads:MTLSizeMake(1, 1, 1)
                    threadsPerThreadgroup:MTLSizeMake(1, 1, 1)],
                "after endEncoding");
}

TEST_CASE("stand-in: an encoder that goes away open is a violation") {
  const Clean clean;
  {
    const RawMetal metal;
    [[metal.queue.get() commandBuffer] computeCommandEncoder];
  }
  metal_standin::quiesce();
  const auto violations = metal_standin::take_violations();
  REQUIRE(violations.size() == 1);
  CHECK(violations[0].find("before endEncoding") != std::string::npos);
}

TEST_CASE("stand-in: binding indices, offsets and sizes") {
  const Clean clean;
  Open open;
  const uint32_t n = 1;
  std::vector<std::byte> much(4097);
  CHECK_INVALID([open.encoder setBuffer:open.memory.get() offset:0 atIndex:31], "index over 30");
  CHECK_INVALID([open.encoder setBytes:&n length:4 atIndex:31], "index over 30");
  CHECK_INVALID([open.encoder setThreadgroupMemoryLength:16 atIndex:31], "index over 30");
  CHECK_INVALID([open.encoder setBuffer:open.memory.get() offset:64 atIndex:0], "offset");
  CHECK_INVALID([open.encoder setBytes:&n length:0 atIndex:0], "length 0 or over 4096");
  CHECK_INVALID([open.encoder setBytes:much.data() length:4097 atIndex:0], "length 0 or over 4096");
  CHECK_INVALID([open.encoder setThreadgroupMemoryLength:8 atIndex:0], "multiple of 16");
  [open.encoder setBuffer:open.memory.get() offset:63 atIndex:30];
  [open.encoder setBytes:much.data() length:4096 atIndex:30];
}

TEST_CASE("stand-in: a dispatch needs a pipeline, threads and every argument") {
  const Clean clean;
  Open open;
  CHECK_INVALID(open.dispatch(), "no pipeline state");
  open.prepare();
  open.dispatch();
  CHECK_INVALID(open.dispatch(MTLSizeMake(0, 1, 1)), "empty grid");
  CHECK_INVALID(open.dispatch(MTLSizeMake(1, 1, 1), MTLSizeMake(1, 0, 1)), "empty grid");
  CHECK_INVALID(open.dispatch(MTLSizeMake(1, 1, 1), MTLSizeMake(32, 32, 2)),
                "over maxTotalThreadsPerThreadgroup");
  [open.encoder setBuffer:nil offset:0 atIndex:1];
  CHECK_INVALID(open.dispatch(), "missing buffer binding at index 1 for out");
  [open.encoder setBuffer:open.memory.get() offset:2 atIndex:1];
  CHECK_INVALID(open.dispatch(), "offset not aligned to its type at index 1 for out");
  open.prepare();
  const uint16_t narrow = 1;
  [open.encoder setBytes:&narrow length:2 atIndex:2];
  CHECK_INVALID(open.dispatch(), "fewer bytes than its type has at index 2 for n");
}

TEST_CASE("stand-in: what a kernel reaches by address has been made resident") {
  const Clean clean;
  Open open;
  const uint32_t n = 1;
  const auto reached = open.buffer(64), list = open.buffer(16);
  const uint64_t address = reached.get().gpuAddress, entry[2] = {address, 64};
  std::memcpy(list.get().contents, entry, sizeof entry);
  const auto pipeline = open.pipeline("firsts");
  open.prepare();
  [open.encoder setComputePipelineState:pipeline.get()];
  [open.encoder setBuffer:list.get() offset:0 atIndex:0];
  [open.encoder setBytes:&n length:4 atIndex:2];
  CHECK_INVALID(open.dispatch(), "reaches a buffer that is not resident");
  id<MTLResource> other = open.memory.get(), right = reached.get();
  [open.encoder useResources:&other count:1 usage:MTLResourceUsageRead];
  CHECK_INVALID(open.dispatch(), "reaches a buffer that is not resident");
  CHECK_INVALID([open.encoder useResources:&right count:1 usage:0], "no usage");
  [open.encoder useResources:&right count:1 usage:MTLResourceUsageRead];
  open.dispatch();
  [open.encoder endEncoding];
  CHECK_INVALID([open.encoder useResources:&right count:1 usage:MTLResourceUsageRead],
                "after endEncoding");
  open.encoder = [open.commands computeCommandEncoder];
}

TEST_CASE("stand-in: threadgroups obey the pipeline's own limit and 32 KiB of memory") {
  const Clean clean;
  Open open;
  open.prepare();
  [open.encoder setThreadgroupMemoryLength:32768 atIndex:0];
  open.dispatch();
  [open.encoder setThreadgroupMemoryLength:16 atIndex:1];
  CHECK_INVALID(open.dispatch(), "threadgroup memory over 32768");
  [open.encoder setThreadgroupMemoryLength:0 atIndex:1];
  const auto narrow = open.pipeline("copy", 64);
  [open.encoder setComputePipelineState:narrow.get()];
  open.dispatch(MTLSizeMake(64, 1, 1), MTLSizeMake(64, 1, 1));
  CHECK_INVALID(open.dispatch(MTLSizeMake(64, 1, 1), MTLSizeMake(65, 1, 1)),
                "over maxTotalThreadsPerThreadgroup");
}

TEST_CASE("stand-in: a compiler that is told no threadgroup size may allow fewer threads") {
  const Clean clean;
  RawMetal metal;
  CHECK(metal.pipeline("copy", 0).get().maxTotalThreadsPerThreadgroup < 1024);
  CHECK(metal.pipeline("copy", 256).get().maxTotalThreadsPerThreadgroup == 256);
  CHECK_INVALID(metal.pipeline("copy", 1025), "over 1024");
}

TEST_CASE("stand-in: functions and pipelines come from the source and the registered kernels") {
  const Clean clean;
  RawMetal metal;
  const auto function = [&](const char* name) {
    return Retained<id<MTLFunction>>::adopt(
        [metal.library.get() newFunctionWithName:to_nsstring(name).get()]);
  };
  CHECK(to_string(function("copy").get().name) == "copy");
  CHECK(!function("undefined"));
  CHECK(!function("cop"));
  CHECK(!metal.pipeline("times_constants"));  // its constants have no values
}

TEST_CASE("stand-in: memory that Metal does not give") {
  const Clean clean;
  RawMetal metal;
  CHECK(!metal.buffer(0));
  CHECK(!metal.buffer(metal.device.get().maxBufferLength + 1));
  CHECK(metal.buffer(64, MTLResourceStorageModePrivate).get().contents == nullptr);
  CHECK_INVALID(metal.buffer(64, MTLResourceHazardTrackingModeUntracked), "not modelled");
  alignas(16384) static std::byte page[16384];
  const auto wrap = [&](std::byte* data, NSUInteger nbytes) {
    [[metal.device.get() newBufferWithBytesNoCopy:data
                                           length:nbytes
                                          options:MTLResourceStorageModeShared
                                      deallocator:nil] release];
  };
  wrap(page, sizeof page);
  CHECK_INVALID(wrap(page + 16, sizeof page), "not on a page");
  CHECK_INVALID(wrap(page, 16), "not whole pages");
  CHECK_INVALID(wrap(page, 0), "not whole pages");
}

TEST_CASE("stand-in: a buffer leaves its residency sets before it goes") {
  const Clean clean;
  RawMetal metal;
  const auto descriptor =
      Retained<MTLResidencySetDescriptor*>::adopt([MTLResidencySetDescriptor new]);
  const auto set = Retained<id<MTLResidencySet>>::adopt(
      [metal.device.get() newResidencySetWithDescriptor:descriptor.get() error:nil]);
  {
    const auto memory = metal.buffer(64);
    CHECK_INVALID([set.get() removeAllocation:memory.get()], "not in the set");
    [set.get() addAllocation:memory.get()];
    [set.get() removeAllocation:memory.get()];
  }
  CHECK(metal_standin::take_violations().empty());
  {
    const auto memory = metal.buffer(64);
    [set.get() addAllocation:memory.get()];
  }
  const auto violations = metal_standin::take_violations();
  REQUIRE(violations.size() == 1);
  CHECK(violations[0].find("released while in a residency set") != std::string::npos);
}

TEST_CASE("stand-in: a queue has 64 command buffers that are not completed") {
  const Clean clean;
  metal_standin::set_schedule({.queue_timeout_ms = 10});
  const RawMetal metal;
  for (int i = 0; i < 64; i++) [metal.queue.get() commandBuffer];
  CHECK_INVALID([metal.queue.get() commandBuffer], "blocks for ever");
}

TEST_CASE("stand-in: what is autoreleased outside any pool is a violation, and would leak") {
  const Clean clean;
  const auto text = to_nsstring("text");
  [[text.get() retain] autorelease];
  const auto violations = metal_standin::take_violations();
  REQUIRE(violations.size() == 1);
  CHECK(violations[0].find("no pool in place: StandinString") != std::string::npos);
  [text.get() release];  // what no pool will do
}
