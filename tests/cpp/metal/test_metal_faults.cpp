// The Metal device when the system fails it: every call that can fail does so once, at every place.
#include <atomic>

#include "metal/rig.h"

using namespace moeflux;
using namespace moeflux::test;
using metal_standin::Fault;
using metal_standin::inject;

namespace {

struct Named {
  Fault fault;
  std::string name;
};
const Named kFaults[] = {
    {Fault::device, "device"},         {Fault::queue, "queue"},
    {Fault::buffer, "buffer"},         {Fault::library, "library"},
    {Fault::function, "function"},     {Fault::pipeline, "pipeline"},
    {Fault::simd_width, "simd_width"}, {Fault::command_buffer, "command buffer"},
    {Fault::encoder, "encoder"},       {Fault::execution, "execution"},
    {Fault::timeout, "timeout"},       {Fault::interactivity, "interactivity"},
};

// Uses everything that a device has, in two command buffers.
std::vector<float> use_everything() {
  const auto device = open_device();
  const auto x = filled(*device, {1, 2, 3});
  const auto y = device->buffer(12);
  const auto commands = device->commands();
  dispatch(*device, *commands, "copy", {Slice{x}, Slice{y}, u32(3)}, 3);
  dispatch(*device, *commands, "axpy", {Slice{x}, Slice{y}, f32(1), u32(3)}, 3);
  device->pipeline("times_constants");
  commands->commit();
  const auto next = device->commands();
  dispatch(*device, *next, "axpy", {Slice{x}, Slice{y}, f32(1), u32(3)}, 3);
  next->commit();
  next->wait();
  commands->wait();
  return values(y);
}

}  // namespace

TEST_CASE("each kind of failure, at each place, is a GpuError and leaks nothing") {
  const Clean clean;
  for (const Named& kind : kFaults) {
    CAPTURE(kind.name);
    int failures = 0;
    for (bool failed = true; failed; failures += failed) {
      REQUIRE(failures < 20);
      failed = false;
      inject(kind.fault, failures);
      try {
        const auto result = use_everything();
        CHECK(result == std::vector<float>{3, 6, 9});
      } catch (const GpuError&) {
        failed = true;
      }
      metal_standin::clear_faults();
      CHECK(Clean::live_objects() == clean.objects);
    }
    CHECK(failures >= 1);
  }
}

TEST_CASE("no device") {
  const Clean clean;
  inject(Fault::device);
  CHECK_THROWS_WITH_AS(open_device(), doctest::Contains("no Metal device"), NoDeviceError);
}

TEST_CASE("no memory") {
  const Clean clean;
  const auto device = open_device();
  inject(Fault::buffer);
  CHECK_THROWS_WITH_AS(device->buffer(12345), doctest::Contains("12345"), GpuError);
  CHECK(device->buffer(12345)->nbytes() == 12345);
}

TEST_CASE("memory that the device will not take stays the caller's") {
  const Clean clean;
  const auto device = open_device();
  auto* page = static_cast<std::byte*>(std::aligned_alloc(16384, 16384));
  int freed = 0;
  inject(Fault::buffer);
  CHECK_THROWS_AS(device->wrap(page, 16384, [&] { freed++; }), GpuError);
  CHECK(freed == 0);
  std::free(page);
}

TEST_CASE("a pipeline that cannot be made is not cached, and can be asked for again") {
  const Clean clean;
  const auto device = open_device();
  inject(Fault::pipeline);
  CHECK_THROWS_WITH_AS(device->pipeline("copy"), doctest::Contains("copy"), PipelineError);
  inject(Fault::simd_width);
  CHECK_THROWS_WITH_AS(device->pipeline("copy"), doctest::Contains("expected 32, found 16"),
                       PipelineError);
  CHECK(device->pipeline_count() == 0);
  device->pipeline("copy");
  inject(Fault::function);
  CHECK_THROWS_AS(device->pipeline("times_constants"), PipelineError);
  CHECK(device->pipeline_count() == 1);
}

TEST_CASE("a compiler that fails once is asked again") {
  const Clean clean;
  const auto device = open_device();
  inject(Fault::library);
  CHECK_THROWS_AS(device->pipeline("copy"), LibraryCompileError);
  device->pipeline("copy");
}

TEST_CASE("a fault on the GPU is thrown by each wait, names the kernels, and is not the end") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1});
  const auto y = device->buffer(4);
  const auto commands = device->commands();
  std::atomic<int> calls{0};
  commands->on_completed([&] { calls++; });
  dispatch(*device, *commands, "copy", {Slice{x}, Slice{y}, u32(1)}, 1);
  dispatch(*device, *commands, "axpy", {Slice{x}, Slice{y}, f32(1), u32(1)}, 1);
  inject(Fault::execution, 1);
  commands->commit();
  CHECK_THROWS_WITH_AS(commands->wait(), doctest::Contains("Address Fault"), GpuError);
  CHECK_THROWS_WITH_AS(commands->wait(), doctest::Contains("kernels: copy, axpy"), GpuError);
  CHECK(commands->done());
  CHECK(calls == 1);
  run(*device, "copy", {Slice{x}, Slice{y}, u32(1)}, 1);
  CHECK(values(y) == std::vector<float>{1});
}

TEST_CASE("commit can be tried again when the system had no command buffer or encoder") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1});
  const auto y = device->buffer(4);
  const auto commands = device->commands();
  dispatch(*device, *commands, "copy", {Slice{x}, Slice{y}, u32(1)}, 1);
  inject(Fault::command_buffer);
  CHECK_THROWS_AS(commands->commit(), GpuError);
  inject(Fault::encoder);
  CHECK_THROWS_AS(commands->commit(), GpuError);
  commands->commit();
  commands->wait();
  CHECK(values(y) == std::vector<float>{1});
}
