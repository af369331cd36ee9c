// The stand-in shows what a program must not rely on: order, time, memory that goes away, bounds.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>
#include <thread>

#include "device/host/sanitizers.h"
#include "metal/raw_metal.h"

using namespace moeflux::test;
using moeflux::device::Binding;
using moeflux::device::KernelInfo;
using moeflux::device::Type;

namespace {

struct Concurrent : RawMetal {
  id<MTLCommandBuffer> commands = [queue.get() commandBuffer];
  id<MTLComputeCommandEncoder> encoder =
      [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
  Retained<id<MTLBuffer>> a = buffer(64), b = buffer(64), c = buffer(64);

  void barrier() { [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers]; }
  std::string run() {
    [encoder endEncoding];
    return finish(commands);
  }
};

void check_hazard(const std::string& error, const std::string& text) {
  CHECK(error.find(text) != std::string::npos);
  metal_standin::quiesce();
  const auto violations = metal_standin::take_violations();
  REQUIRE(violations.size() == 1);
  CHECK(violations[0].find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("stand-in: write and read with no barrier between are a hazard, both ways") {
  const Clean clean;
  {
    Concurrent metal;
    metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 0, 4);
    metal.copy(metal.encoder, metal.b.get(), 0, metal.c.get(), 0, 4);
    check_hazard(metal.run(), "no barrier between copy (out, written) and copy (in, read)");
  }
  {
    Concurrent metal;
    metal.copy(metal.encoder, metal.b.get(), 0, metal.c.get(), 0, 4);
    metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 0, 4);
    check_hazard(metal.run(), "no barrier between copy (in, read) and copy (out, written)");
  }
}

TEST_CASE("stand-in: two writes with no barrier between are a hazard, found past others") {
  const Clean clean;
  Concurrent metal;
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 0, 4);
  metal.copy(metal.encoder, metal.a.get(), 0, metal.c.get(), 0, 4);
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 12, 4);
  check_hazard(metal.run(), "no barrier between copy (out, written) and copy (out, written)");
}

TEST_CASE("stand-in: a barrier parts; reads and ranges that do not touch need none") {
  const Clean clean;
  Concurrent metal;
  static_cast<float*>(metal.a.get().contents)[0] = 7;
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 0, 1);
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 4, 1);
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 8, 4);
  metal.barrier();
  metal.copy(metal.encoder, metal.b.get(), 4, metal.c.get(), 0, 1);
  CHECK(metal.run().empty());
  CHECK(static_cast<float*>(metal.c.get().contents)[0] == 7);
}

TEST_CASE("stand-in: a serial encoder needs no barriers, nor do encoders among each other") {
  const Clean clean;
  RawMetal metal;
  const auto a = metal.buffer(64), b = metal.buffer(64);
  static_cast<float*>(a.get().contents)[0] = 7;
  id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
  for (const MTLDispatchType type : {MTLDispatchTypeSerial, MTLDispatchTypeConcurrent}) {
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:type];
    metal.copy(encoder, a.get(), 0, b.get(), 0, 1);
    if (type == MTLDispatchTypeSerial) metal.copy(encoder, b.get(), 0, b.get(), 8, 1);
    [encoder endEncoding];
  }
  CHECK(finish(commands).empty());
  CHECK(static_cast<float*>(b.get().contents)[2] == 7);
}

namespace {

const Binding kMark[] = {
    {.name = "index", .type = Type::u32, .scalar = true},
    {.name = "out",
     .type = Type::u8,
     .writable = true,
     .alignment = 1,
     .elements = [](const moeflux::device::Call&) { return moeflux::device::Wide{1}; }}};
std::vector<uint32_t> marks;  // written by the queue's thread, read after the wait

// A table of one kernel: `name`, which runs `run`.
void register_mark(KernelInfo& info, std::function<void(const metal_standin::Launch&)> run) {
  info.name = "axpy";  // of which the library has the source
  info.bindings = kMark;
  metal_standin::register_kernel({&info, std::move(run)});
}

}  // namespace

TEST_CASE("stand-in: dispatches that no barrier parts run in any order, those parted in theirs") {
  const Clean clean;
  static KernelInfo info{};
  register_mark(
      info, [](const metal_standin::Launch& launch) { marks.push_back(*launch.at<uint32_t>(0)); });
  std::set<std::vector<uint32_t>> orders;
  for (int attempt = 0; attempt < 20; attempt++) {
    marks.clear();
    Concurrent metal;
    [metal.encoder setComputePipelineState:metal.pipeline("axpy").get()];
    for (uint32_t i = 0; i < 8; i++) {
      if (i == 4) metal.barrier();
      [metal.encoder setBytes:&i length:4 atIndex:0];
      [metal.encoder setBuffer:metal.a.get() offset:i atIndex:1];
      [metal.encoder dispatchThreads:MTLSizeMake(1, 1, 1)
               threadsPerThreadgroup:MTLSizeMake(1, 1, 1)];
    }
    CHECK(metal.run().empty());
    REQUIRE(marks.size() == 8);
    orders.insert(marks);
    std::sort(marks.begin(), marks.begin() + 4);
    std::sort(marks.begin() + 4, marks.end());
    for (uint32_t i = 0; i < 8; i++) CHECK(marks[i] == i);
  }
  CHECK(orders.size() > 10);
}

TEST_CASE("stand-in: an argument that does not reach as far as the table says is a page fault") {
  const Clean clean;
  Concurrent metal;
  metal.copy(metal.encoder, metal.a.get(), 0, metal.b.get(), 4, 16);
  CHECK(metal.run().find("copy: out is accessed out of bounds") != std::string::npos);
}

TEST_CASE("stand-in: a write past the end of a buffer is found after the dispatch") {
  const Clean clean;
  static KernelInfo info{};
  register_mark(info, [](const metal_standin::Launch& launch) {
    launch.at<uint8_t>(1)[*launch.at<uint32_t>(0)] = 1;
  });
  for (const uint32_t index : {63u, 64u, 100u}) {
    if (moeflux::device::host::kAsan && index > 63) continue;  // ends the process
    Concurrent metal;
    [metal.encoder setComputePipelineState:metal.pipeline("axpy").get()];
    [metal.encoder setBytes:&index length:4 atIndex:0];
    [metal.encoder setBuffer:metal.a.get() offset:0 atIndex:1];
    [metal.encoder dispatchThreads:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(1, 1, 1)];
    CHECK((metal.run().find("past the end of a buffer") != std::string::npos) == (index > 63));
  }
}

TEST_CASE("stand-in: a command buffer is late, and its handlers may come after the wait") {
  const Clean clean;
  metal_standin::set_schedule({.max_delay_us = 5000});
  int unfinished = 0, handlers_late = 0;
  for (int attempt = 0; attempt < 20; attempt++) {
    const RawMetal metal;
    const auto called = std::make_shared<std::atomic<bool>>(false);
    id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
    [commands addCompletedHandler:^(id<MTLCommandBuffer>) {
      *called = true;
    }];
    [commands commit];
    unfinished += commands.status < MTLCommandBufferStatusCompleted;
    [commands waitUntilCompleted];
    handlers_late += !*called;
    metal_standin::quiesce();
    CHECK(*called);
  }
  CHECK(unfinished > 0);
  CHECK(handlers_late > 0);
}

TEST_CASE("stand-in: unretained buffers that go away in flight are a violation and a page fault") {
  const Clean clean;
  RawMetal metal;
  static std::atomic<bool> released;
  static KernelInfo info{};
  register_mark(info, [](const metal_standin::Launch&) {
    while (!released) std::this_thread::yield();
  });
  const auto gate = metal.pipeline("axpy");
  const auto room = metal.buffer(64);
  const auto run = [&](id<MTLCommandBuffer> commands) {
    auto a = metal.buffer(64), b = metal.buffer(64);
    released = false;
    id<MTLCommandBuffer> before = [metal.queue.get() commandBuffer];  // holds up what follows
    id<MTLComputeCommandEncoder> holding = [before computeCommandEncoder];
    const uint32_t index = 0;
    [holding setComputePipelineState:gate.get()];
    [holding setBytes:&index length:4 atIndex:0];
    [holding setBuffer:room.get() offset:0 atIndex:1];
    [holding dispatchThreads:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(1, 1, 1)];
    [holding endEncoding];
    [before commit];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    metal.copy(encoder, a.get(), 0, b.get(), 0, 4);
    [encoder endEncoding];
    [commands commit];
    a = {};
    released = true;
    [commands waitUntilCompleted];
    return to_string(commands.error.localizedDescription);
  };
  CHECK(run([metal.queue.get() commandBuffer]).empty());
  const std::string error = run([metal.queue.get() commandBufferWithUnretainedReferences]);
  CHECK(error.find("a buffer went away") != std::string::npos);
  const auto violations = metal_standin::take_violations();
  REQUIRE(!violations.empty());
  CHECK(violations[0].find("released while a command buffer used it") != std::string::npos);
}

TEST_CASE("stand-in: copied blocks and objects are counted") {
  const Clean clean;
  const long before = Clean::live_objects();
  const auto text = to_nsstring("text");
  CHECK(Clean::live_objects() == before + 1);
  {
    const RawMetal metal;
    id<MTLCommandBuffer> commands = [metal.queue.get() commandBuffer];
    const long open = Clean::live_objects();
    [commands addCompletedHandler:^(id<MTLCommandBuffer>) {
      (void)text.get();
    }];
    CHECK(Clean::live_objects() == open + 1);
  }
  CHECK(Clean::live_objects() == before + 1);
}

TEST_CASE("stand-in: the kernels of shaders/ run by name from the embedded source") {
  const Clean clean;
  auto device = moeflux::device::open_metal();
  const auto a = filled(*device, {1, 2, 3, 4, 5});
  const auto b = filled(*device, {10, 20, 30, 40, 50});
  const auto out = filled(*device, std::vector<float>(5, NAN));
  run(*device, "residual_add", {Slice{a}, Slice{b}, Slice{out}, u32(5)}, 5);
  CHECK(values(out) == std::vector<float>{11, 22, 33, 44, 55});
}
