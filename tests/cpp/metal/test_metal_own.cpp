// Kernels of somebody's own source, and recording what the GPU does.
#include <cstdlib>
#include <filesystem>

#include "device/check.h"
#include "metal/rig.h"

using namespace moeflux;
using namespace moeflux::test;
using metal_standin::Fault;
using metal_standin::inject;

TEST_CASE("a kernel of one's own source runs, and keeps what it needs") {
  const Clean clean;
  auto device = open_device("");
  const auto x = filled(*device, {1, 2, 3}), y = device->buffer(12);
  auto commands = device->commands();
  {
    const auto copy = device->compile(source())->pipeline("copy");
    CHECK(copy->info().is_own);
    commands->dispatch(copy, std::vector<Argument>{Slice{x}, Slice{y}, u32(3)}, {3, 1, 1},
                       {32, 1, 1});
  }
  device.reset();
  commands->commit();
  commands->wait();
  CHECK(values(y) == std::vector<float>{1, 2, 3});
}

TEST_CASE("a source that does not compile is an error, whatever it is") {
  const Clean clean;
  const auto device = open_device();
  CHECK_THROWS_WITH_AS(device->compile("#error no\n"), doctest::Contains("error: no"),
                       LibraryCompileError);
  CHECK_THROWS_WITH_AS(device->compile("// \xff\xfe"), doctest::Contains("UTF-8"),
                       LibraryCompileError);
  inject(Fault::library);
  CHECK_THROWS_AS(device->compile(source()), LibraryCompileError);
  for (const std::string_view text : {std::string_view(), std::string_view("\0", 1)})
    CHECK_THROWS_AS(device->compile(text)->pipeline("copy"), KernelNotFoundError);
  const auto library = device->compile("vertex float4 corner(uint i) { return 0; }");
  for (const char* name : {"copy", "corner", "", "\xff"})
    CHECK_THROWS_WITH_AS(library->pipeline(name), doctest::Contains("the source has no kernel"),
                         KernelNotFoundError);
  inject(Fault::pipeline);
  CHECK_THROWS_WITH_AS(device->compile(source())->pipeline("copy"), doctest::Contains("copy"),
                       PipelineError);
}

TEST_CASE("of one's own kernel only what Metal does not survive is checked") {
  const Clean clean;
  const auto device = open_device();
  const auto x = filled(*device, {1, 2}), y = filled(*device, {7, 7});
  const auto copy = device->compile(source())->pipeline("copy");
  const auto refused = [&](std::vector<Argument> args, device::Size grid, device::Size group,
                           const char* text) {
    const auto commands = device->commands();
    CHECK_THROWS_WITH_AS(commands->dispatch(copy, args, grid, group), doctest::Contains(text),
                         FormatError);
  };
  const std::vector<Argument> good{Slice{x}, Slice{y}, u32(2)};
  refused(good, {0, 1, 1}, {32, 1, 1}, "empty grid");
  refused(good, {2, 1, 1}, {32, 32, 2}, "expected at most");
  refused(std::vector<Argument>(32, u32(0)), {2, 1, 1}, {32, 1, 1},
          "expected at most 31, found 32");
  refused({Slice{x, 8}, Slice{y}, u32(2)}, {2, 1, 1}, {32, 1, 1}, "argument 0: offset of 8");
  refused({Slice{x, 2}, Slice{y}, u32(2)}, {2, 1, 1}, {32, 1, 1}, "multiple of 4");
  CHECK_THROWS_WITH_AS(default_geometry(*copy, good), doctest::Contains("a grid and a threadgroup"),
                       FormatError);
  // What is left out is zeros: n here.
  const auto commands = device->commands();
  commands->dispatch(copy, std::vector<Argument>{Slice{x}, Slice{y}}, {2, 1, 1}, {2, 1, 1});
  commands->commit();
  commands->wait();
  CHECK(values(y) == std::vector<float>{7, 7});
}

TEST_CASE("what the GPU does is recorded where the system lets it, one recording at a time") {
  const Clean clean;
  const auto device = open_device();
  const auto path = std::filesystem::temp_directory_path() / "moeflux_test.gputrace";
  std::filesystem::remove(path);
  const auto refused = [&](const std::string& where, const char* text) {
    CHECK_THROWS_WITH_AS(device->begin_capture(where), doctest::Contains(text), GpuError);
  };
  unsetenv("MTL_CAPTURE_ENABLED");
  refused(path, "set MTL_CAPTURE_ENABLED=1 before it starts");
  setenv("MTL_CAPTURE_ENABLED", "1", 1);
  refused(path.string() + ".txt", "Invalid output URL");
  refused("\xff", "UTF-8");
  device->begin_capture(path);
  refused(path.string() + "2", "expected no other capture");
  device->end_capture();
  device->end_capture();  // there is none: nothing
  CHECK(std::filesystem::exists(path));
  refused(path, "Invalid output URL");  // it is there
  std::filesystem::remove(path);
  unsetenv("MTL_CAPTURE_ENABLED");
}
