// The arithmetic of size expressions and the checks of a dispatch, over a table of its own.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/check.h"
#include "device/expression.h"

using namespace moeflux;
using namespace moeflux::device;
using namespace moeflux::device::expression;

namespace {
constexpr Wide k32 = UINT32_MAX;

// out (rows, columns / n), W (rows, columns), index u32 (rows): rows of W by index.
constexpr Binding kBindings[] = {
    {"W", Type::f32, false, false, false, 16,
     [](const Call& c) -> Wide { return multiply(add(maximum(c, 1), Wide{1}), scalar(c, 3)); }},
    {"index", Type::u32, false, false, true, 4, [](const Call& c) -> Wide { return groups(c); }},
    {"out", Type::bf16, false, true, false, 2,
     [](const Call& c) -> Wide { return divide(multiply(groups(c), scalar(c, 3)), scalar(c, 4)); }},
    {"columns", Type::u32, true, false, false, 4, nullptr},
    {"n", Type::u32, true, false, false, 4, nullptr},
};
constexpr FunctionConstant kConstants[] = {{"limit", 0, 100}};
constexpr Requirement kRequirements[] = {
    {[](const Call& c) -> Wide { return equal(modulo(scalar(c, 3), scalar(c, 4)), Wide{0}); },
     "columns % n == 0"},
    {[](const Call& c) -> Wide { return at_most(scalar(c, 3), constant(c, 0)); },
     "columns <= limit"},
};
constexpr KernelInfo kInfo = {
    "gather",
    "none.metal",
    false,
    kBindings,
    kConstants,
    kRequirements,
    1024,
    Threadgroups::simd_multiple,
    0,
    1,
    [](const Call& c) -> Wide { return multiply(length(c, 1), threads(c)); },
    [](const Call& c) -> Wide { return smaller(scalar(c, 3), Wide{64}); }};

class Memory : public Buffer {
 public:
  explicit Memory(uint64_t nbytes) : bytes_(nbytes) {}
  std::byte* contents() const override { return const_cast<std::byte*>(bytes_.data()); }
  uint64_t nbytes() const override { return bytes_.size(); }
  uint64_t address() const override { return reinterpret_cast<uintptr_t>(bytes_.data()); }

 private:
  std::vector<std::byte> bytes_;
};

class FakePipeline : public Pipeline {
 public:
  explicit FakePipeline(const KernelInfo& info) : info_(info) {}
  const KernelInfo& info() const override { return info_; }
  std::span<const uint64_t> constants() const override { return constants_; }
  uint32_t max_threads() const override { return 512; }
  std::vector<uint64_t> constants_ = {100};

 private:
  KernelInfo info_;
};

struct Gather {
  FakePipeline pipeline{kInfo};
  Limits limits;
  std::vector<Argument> args;
  Geometry geometry{{96, 1, 1}, {32, 1, 1}};  // 3 rows

  Gather() {
    const auto index = std::make_shared<Memory>(3 * 4);
    const uint32_t rows[] = {4, 0, 2};
    std::memcpy(index->contents(), rows, sizeof rows);
    args = {Slice{std::make_shared<Memory>(5 * 64 * 4), 0}, Slice{index, 0},
            Slice{std::make_shared<Memory>(3 * 32 * 2), 0}, Scalar{64}, Scalar{2}};
  }
  void check() { check_dispatch(pipeline, limits, args, geometry); }
  void refused(const char* what) {
    CHECK_THROWS_WITH_AS(check(), doctest::Contains(what), FormatError);
  }
};
}  // namespace

TEST_CASE("expressions are exact for 32-bit operands and have no value where there is none") {
  CHECK(multiply(multiply(k32, k32), k32) == k32 * k32 * k32);
  CHECK(multiply(multiply(multiply(k32, k32), k32), k32) == k32 * k32 * k32 * k32);
  CHECK(multiply(multiply(multiply(multiply(k32, k32), k32), k32), k32) == kNoValue);
  CHECK(add(kNoValue - 1, Wide{1}) == kNoValue);
  CHECK(subtract(Wide{2}, Wide{3}) == kNoValue);
  CHECK(subtract(Wide{3}, Wide{3}) == 0);
  CHECK(divide(Wide{7}, Wide{0}) == kNoValue);
  CHECK(modulo(Wide{7}, Wide{0}) == kNoValue);
  CHECK(ceil_divide(Wide{7}, Wide{0}) == kNoValue);
  CHECK(ceil_divide(Wide{7}, Wide{2}) == 4);
  CHECK(ceil_divide(Wide{8}, Wide{2}) == 4);
  CHECK(ceil_divide(kNoValue - 1, Wide{1}) == kNoValue - 1);
  CHECK(larger(smaller(Wide{3}, Wide{9}), Wide{5}) == 5);
}

TEST_CASE("what has no value stays so, except where it is not evaluated") {
  const auto never = []() -> Wide { throw 1; };
  const auto nothing = [] { return kNoValue; };
  for (const Wide result : {add(kNoValue, Wide{1}),
                            subtract(kNoValue, Wide{1}),
                            multiply(Wide{0}, kNoValue),
                            divide(kNoValue, Wide{2}),
                            modulo(Wide{2}, kNoValue),
                            ceil_divide(Wide{0}, kNoValue),
                            smaller(Wide{1}, kNoValue),
                            larger(kNoValue, Wide{1}),
                            equal(kNoValue, kNoValue),
                            unequal(kNoValue, Wide{1}),
                            less(Wide{1}, kNoValue),
                            at_most(Wide{1}, kNoValue),
                            greater(kNoValue, Wide{1}),
                            at_least(kNoValue, Wide{1}),
                            negate(kNoValue),
                            both(kNoValue, never),
                            both(Wide{1}, nothing),
                            either(kNoValue, never),
                            either(Wide{0}, nothing),
                            choose(kNoValue, never, never),
                            choose(Wide{1}, nothing, never),
                            choose(Wide{0}, never, nothing)})
    CHECK(result == kNoValue);
  CHECK(both(Wide{0}, never) == 0);
  CHECK(both(Wide{5}, [] { return Wide{7}; }) == 1);
  CHECK(either(Wide{5}, never) == 1);
  CHECK(either(Wide{0}, [] { return Wide{0}; }) == 0);
  CHECK(choose(Wide{2}, [] { return Wide{7}; }, never) == 7);
  CHECK(choose(Wide{0}, never, [] { return Wide{8}; }) == 8);
  CHECK(less(Wide{1}, Wide{2}) == 1);
  CHECK(greater(Wide{1}, Wide{2}) == 0);
  CHECK(at_least(Wide{2}, Wide{2}) == 1);
  CHECK(unequal(Wide{2}, Wide{2}) == 0);
  CHECK(negate(Wide{2}) == 0);
}

TEST_CASE("a sound dispatch passes, and one element less does not") {
  Gather g;
  g.check();
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 - 4), 0};
  g.refused("argument 0 (W) is too small: expected 320 elements of f32, found 319");
  g = Gather();
  g.args[2] = Slice{std::make_shared<Memory>(3 * 32 * 2 - 2), 0};
  g.refused("argument 2 (out) is too small: expected 96 elements of bf16, found 95");
  g.args[2] = Slice{};
  g.refused("argument 2 (out) is missing: expected 96 elements of bf16, found none");
}

TEST_CASE("offsets count, and are aligned") {
  Gather g;
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 + 16), 16};
  g.check();
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 + 16), 32};
  g.refused("expected 320 elements of f32, found 316");
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 + 16), 8};
  g.refused("offset of 8 bytes: expected a multiple of 16");
  g.args[0] = Slice{std::make_shared<Memory>(64), 80};
  g.refused("offset of 80 bytes: expected a multiple of 16 within 64");
}

TEST_CASE("what a kernel loads at once is a matter of its constants, too") {
  std::vector<Binding> bindings(std::begin(kBindings), std::end(kBindings));
  bindings[0].aligned = [](const Call& c) -> Wide { return multiply(constant(c, 0), Wide{1}); };
  KernelInfo info = kInfo;
  info.bindings = bindings;
  Gather g;
  g.pipeline = FakePipeline(info);
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 + 400), 400};
  g.check();
  g.args[0] = Slice{std::make_shared<Memory>(5 * 64 * 4 + 400), 80};
  g.refused("argument 0 (W): offset of 80 bytes: expected a multiple of 100");
}

TEST_CASE("addresses come from a list of buffers alone") {
  std::vector<Binding> bindings(std::begin(kBindings), std::end(kBindings));
  bindings[0].type = Type::u64;
  KernelInfo info = kInfo;
  info.bindings = bindings;
  const FakePipeline pipeline(info);
  const Gather g;
  CHECK_THROWS_WITH_AS(check_dispatch(pipeline, g.limits, g.args, g.geometry),
                       doctest::Contains("argument 0 (W): expected a list of buffers"),
                       FormatError);
}

TEST_CASE("a list of buffers may be empty") {
  std::vector<Binding> bindings(std::begin(kBindings), std::end(kBindings));
  bindings[0].type = Type::u64;
  bindings[0].alignment = 8;
  bindings[0].elements = [](const Call&) -> Wide { return 0; };
  KernelInfo info = kInfo;
  info.bindings = bindings;
  Gather g;
  g.pipeline = FakePipeline(info);
  g.args[0] = Slice{open_host()->addresses({}), 0};
  g.check();
}

TEST_CASE("arguments of the wrong number or kind") {
  Gather g;
  g.args.pop_back();
  g.refused("gather: wrong number of arguments: expected 5, found 4");
  g = Gather();
  std::swap(g.args[2], g.args[3]);
  g.refused("argument 2 (out): expected a buffer, found a scalar");
  g = Gather();
  g.args[4] = g.args[0];
  g.refused("argument 4 (n): expected a scalar, found a buffer");
  g.args[4] = Slice{};
  g.refused("argument 4 (n): expected a scalar, found nothing");
}

TEST_CASE("requirements, with any scalars") {
  for (const uint32_t n : {0u, 3u, 63u, 65u, UINT32_MAX}) {
    Gather g;
    g.args[4] = Scalar{n};
    g.refused("columns % n == 0");
  }
  Gather g;
  for (const uint32_t columns : {0u, 1u, 101u, 1u << 31, UINT32_MAX})
    for (const uint32_t n : {0u, 1u, UINT32_MAX}) {
      g.args[3] = Scalar{columns};
      g.args[4] = Scalar{n};
      try {
        g.check();
        CHECK((columns == 0 || (columns == 1 && n == 1)));
      } catch (const FormatError&) {
      }
    }
  g = Gather();
  g.pipeline.constants_ = {63};  // a function constant
  g.refused("columns <= limit");
}

TEST_CASE("sizes that follow from contents look at the elements that the kernel reads") {
  Gather g;
  uint32_t* index = reinterpret_cast<uint32_t*>(std::get<Slice>(g.args[1]).buffer->contents());
  index[2] = 5;
  g.refused("argument 0 (W) is too small: expected 384 elements");
  index[2] = UINT32_MAX;
  g.refused("expected 274877906944 elements of f32, found 320");
  g.geometry.grid = {64, 1, 1};  // two rows: the third is not read
  g.check();
}

TEST_CASE("geometry") {
  Gather g;
  for (const Size& bad : {Size{0, 1, 1}, Size{96, 0, 1}, Size{96, 1, 0}}) {
    g.geometry = {bad, {32, 1, 1}};
    g.refused("empty grid");
    g.geometry = {{96, 1, 1}, bad};
    g.refused("empty grid");
  }
  g.geometry = {{96, 2, 1}, {32, 1, 1}};
  g.refused("of 1 dimension(s)");
  g.geometry = {{96, 1, 1}, {32, 1, 2}};
  g.refused("of 1 dimension(s)");
  g.geometry = {{544, 1, 1}, {544, 1, 1}};
  g.refused("expected at most 512 threads");  // the pipeline's
  g.limits.max_threads = 256;
  g.geometry = {{512, 1, 1}, {512, 1, 1}};
  g.refused("expected at most 256 threads");  // the device's
  KernelInfo info = kInfo;
  info.largest_threads = 128;
  g.pipeline = FakePipeline(info);
  g.geometry = {{160, 1, 1}, {160, 1, 1}};
  g.refused("expected at most 128 threads");  // the kernel's
  g.pipeline = FakePipeline(kInfo);
  g.geometry = {{96, 1, 1}, {UINT32_MAX, 1, 1}};
  g.refused("threads");
  g.geometry = {{96, 1, 1}, {48, 1, 1}};
  g.refused("multiples of 32 threads, found (48, 1, 1) and (96, 1, 1)");
  g.geometry = {{80, 1, 1}, {32, 1, 1}};
  g.refused("multiples of 32");
  g.limits.threadgroup_bytes = 1000;
  g.geometry = {{96, 1, 1}, {32, 1, 1}};
  g.refused("needs 1024 bytes of threadgroup memory, the device has 1000");
}

TEST_CASE("threadgroups up to a size") {
  Gather g;
  KernelInfo info = kInfo;
  info.largest_threads = 64;
  const FakePipeline small(info);
  check_dispatch(small, g.limits, g.args, {{96, 1, 1}, {64, 1, 1}});
  CHECK_THROWS_WITH_AS(check_dispatch(small, g.limits, g.args, {{96, 1, 1}, {96, 1, 1}}),
                       doctest::Contains("at most 64 threads"), FormatError);
}

TEST_CASE("threadgroups of an exact size, three dimensions, grids beyond 64 bits") {
  Gather g;
  KernelInfo info = kInfo;
  info.threadgroups = Threadgroups::exact;
  info.exact_threads = 64;
  const FakePipeline exact(info);
  CHECK_THROWS_WITH_AS(check_dispatch(exact, g.limits, g.args, g.geometry),
                       doctest::Contains("threadgroups of 64"), FormatError);
  check_dispatch(exact, g.limits, g.args, {{160, 1, 1}, {64, 1, 1}});  // 3, the last one of 32
  info.threadgroups = Threadgroups::any;
  info.dimensions = 3;
  const FakePipeline cube(info);
  check_dispatch(cube, g.limits, g.args, {{6, 5, 4}, {2, 5, 4}});
  CHECK_THROWS_AS(check_dispatch(cube, g.limits, g.args, {{6, 5, 4}, {8, 8, 9}}), FormatError);
  const uint32_t all = UINT32_MAX;
  CHECK_THROWS_WITH_AS(check_dispatch(cube, g.limits, g.args, {{all, all, all}, {512, 1, 1}}),
                       doctest::Contains("more threads than 64 bits"), FormatError);
}

TEST_CASE("default geometry, given whole, in part, or not at all") {
  Gather g;
  CHECK(default_geometry(g.pipeline, g.args).threadgroup == Size{64, 1, 1});
  CHECK(default_geometry(g.pipeline, g.args).grid == Size{192, 1, 1});
  CHECK(default_geometry(g.pipeline, g.args, Size{32, 1, 1}).grid == Size{96, 1, 1});
  g.args[3] = Scalar{0};
  CHECK_THROWS_WITH_AS(default_geometry(g.pipeline, g.args),
                       doctest::Contains("default threadgroup of 0"), FormatError);
  g = Gather();
  g.args[1] = Slice{};
  CHECK_THROWS_WITH_AS(default_geometry(g.pipeline, g.args), doctest::Contains("default grid of 0"),
                       FormatError);
  KernelInfo info = kInfo;
  info.default_grid = nullptr;
  CHECK_THROWS_WITH_AS(default_geometry(FakePipeline(info), g.args),
                       doctest::Contains("has no default grid"), FormatError);
}
