// The Metal device: opening, limits, memory, library and pipelines.
#include <cstdlib>

#include "metal/rig.h"

using namespace moeflux;
using namespace moeflux::test;

namespace {

constexpr uint64_t kPage = 16384;

struct Pages {  // page-aligned memory of the test's own
  explicit Pages(uint64_t count)
      : data(static_cast<std::byte*>(std::aligned_alloc(kPage, count * kPage))),
        nbytes(count * kPage) {}
  ~Pages() { std::free(data); }
  std::byte* data;
  uint64_t nbytes;
};

}  // namespace

TEST_CASE("a device tells its kind, name and limits") {
  const Clean clean;
  const auto device = open_device();
  CHECK(device->kind() == "metal");
  CHECK(!device->name().empty());
  CHECK(device->limits().max_buffer_bytes >= (1u << 28));
  CHECK(device->limits().working_set_bytes > 0);
  CHECK(device->limits().max_threads == 1024);
  CHECK(device->limits().threadgroup_bytes >= 32768);
  CHECK(device->limits().page_bytes == kPage);
  CHECK(device->limits().unified_memory);
}

TEST_CASE("a buffer larger than the device's largest is refused") {
  const Clean clean;
  const auto device = open_device();
  const uint64_t most = device->limits().max_buffer_bytes;
  CHECK_THROWS_WITH_AS(
      device->buffer(most + 1),
      doctest::Contains(("expected at most " + std::to_string(most) + " bytes").c_str()), GpuError);
}

TEST_CASE("a new buffer holds zeros") {
  const Clean clean;
  const auto device = open_device();
  const auto buffer = device->buffer(100000);
  CHECK(buffer->nbytes() == 100000);
  for (uint64_t i = 0; i < buffer->nbytes(); i++) REQUIRE(buffer->contents()[i] == std::byte{0});
}

TEST_CASE("a buffer has at least one byte") {
  const Clean clean;
  const auto device = open_device();
  CHECK_THROWS_AS(device->buffer(0), FormatError);
  CHECK(device->buffer(1)->nbytes() == 1);
}

TEST_CASE("a buffer outlives its device") {
  const Clean clean;
  std::shared_ptr<Buffer> buffer = filled(*open_device(), {1, 2, 3});
  CHECK(values(buffer) == std::vector<float>{1, 2, 3});
}

TEST_CASE("wrapped memory is used in place and given back once") {
  const Clean clean;
  const Pages pages(2);
  int freed = 0;
  {
    const auto device = open_device();
    auto buffer = device->wrap(pages.data, pages.nbytes, [&] { freed++; });
    CHECK(buffer->contents() == pages.data);
    CHECK(buffer->nbytes() == pages.nbytes);
    const auto in = filled(*device, {3, 4, 5, 6});
    run(*device, "copy", {Slice{in}, Slice{buffer}, u32(4)}, 4);
    CHECK(reinterpret_cast<float*>(pages.data)[3] == 6);
    CHECK(freed == 0);
  }
  CHECK(freed == 1);
}

TEST_CASE("memory that is not whole pages cannot be wrapped and stays the caller's") {
  const Clean clean;
  const Pages pages(2);
  int freed = 0;
  const auto free = [&] { freed++; };
  const auto device = open_device();
  CHECK_THROWS_AS(device->wrap(pages.data + 4, kPage, free), FormatError);
  CHECK_THROWS_AS(device->wrap(pages.data, kPage + 4, free), FormatError);
  CHECK_THROWS_AS(device->wrap(pages.data, 0, free), FormatError);
  CHECK_THROWS_AS(device->wrap(nullptr, kPage, free), FormatError);
  CHECK(freed == 0);
}

TEST_CASE("wrapped memory obeys the largest buffer size") {
  const Clean clean;
  const Pages pages(2);
  const auto device = open_device();
  const uint64_t most = device->limits().max_buffer_bytes / kPage * kPage;
  CHECK_THROWS_AS(device->wrap(pages.data, most + kPage, nullptr), GpuError);
}

TEST_CASE("pipelines are compiled on first request and cached") {
  const Clean clean;
  const auto device = open_device();
  CHECK(device->pipeline_count() == 0);
  const auto copy = device->pipeline("copy");
  CHECK(device->pipeline_count() == 1);
  CHECK(device->pipeline("copy") == copy);
  CHECK(device->pipeline("axpy") != copy);
  CHECK(device->pipeline_count() == 2);
  CHECK(std::string(copy->info().name) == "copy");
  CHECK(copy->max_threads() == 1024);
}

TEST_CASE("a pipeline is known by name and constants, defaults filled in") {
  const Clean clean;
  const auto device = open_device();
  const auto defaults = device->pipeline("times_constants");
  CHECK(device->pipeline("times_constants", {{"second", 3}}) == defaults);
  CHECK(device->pipeline("times_constants", {{"second", 3}, {"first", 2}}) == defaults);
  const auto other = device->pipeline("times_constants", {{"second", 7}});
  CHECK(other != defaults);
  CHECK(device->pipeline_count() == 2);
  CHECK(other->constants()[0] == 2);
  CHECK(other->constants()[1] == 7);

  const auto out = device->buffer(4 * sizeof(float));
  const auto commands = device->commands();
  commands->dispatch(other, std::vector<Argument>{Slice{out}, u32(4)}, {4, 1, 1}, {4, 1, 1});
  commands->commit();
  commands->wait();
  CHECK(values(out) == std::vector<float>(4, 2007));
}

TEST_CASE("a function constant that the kernel does not have is refused") {
  const Clean clean;
  const auto device = open_device();
  CHECK_THROWS_WITH_AS(device->pipeline("times_constants", {{"third", 1}}),
                       doctest::Contains("expected one of (first, second), found 'third'"),
                       PipelineError);
  CHECK_THROWS_AS(device->pipeline("copy", {{"first", 1}}), PipelineError);
  CHECK(device->pipeline_count() == 0);
}

TEST_CASE("an unknown kernel is not found, neither in the table nor in the library") {
  const Clean clean;
  const auto device = open_device();
  CHECK_THROWS_AS(device->pipeline("no_such_kernel"), KernelNotFoundError);
  CHECK_THROWS_AS(device->pipeline(""), KernelNotFoundError);
  CHECK_THROWS_AS(device->pipeline("undefined"), KernelNotFoundError);
  CHECK(device->pipeline_count() == 0);
}

TEST_CASE("a library that does not compile says what the compiler said") {
  const Clean clean;
  const auto device = open_device("#error this shader is broken\n");
  for (int attempt = 0; attempt < 2; attempt++) {
    CHECK_THROWS_WITH_AS(device->pipeline("copy"), doctest::Contains("this shader is broken"),
                         LibraryCompileError);
  }
  CHECK_THROWS_AS(device->pipeline("no_such_kernel"), KernelNotFoundError);
}

#ifdef MOEFLUX_METAL_STANDIN
TEST_CASE("the library is compiled with safe math and a language version of its own") {
  const Clean clean;
  open_device()->pipeline("copy");
  const auto options = metal_standin::compile_options();
  CHECK(options.language_version == 0x20004);  // 2.4
  CHECK(!options.fast_math);
  CHECK(options.math_mode == 0);
}
#endif
