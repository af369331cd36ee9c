// The executor over the kernels of executor.metal, held to plain loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "device/host/executor.h"

using namespace moeflux;
using namespace moeflux::device;
using namespace moeflux::device::host;

namespace {
// Runs a kernel under several schedules; all must give what the first one gave.
template <class Out>
std::vector<Out> run(const char* kernel, std::vector<void*> arguments, size_t out_index,
                     size_t out_count, Size grid, Size threadgroup,
                     std::vector<uint64_t> constants = {}) {
  const KernelInfo* info = find_kernel(kernel);
  REQUIRE(info);
  std::vector<Out> first;
  Executor executor;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    std::vector<Out> out(out_count);
    std::memset(static_cast<void*>(out.data()), 0xff, out_count * sizeof(Out));
    arguments[out_index] = out.data();
    executor.run({*info, constants, arguments, grid, threadgroup, seed});
    if (seed == 0) first = out;
    CHECK(std::memcmp(out.data(), first.data(), out_count * sizeof(Out)) == 0);
  }
  return first;
}

std::vector<float> counted(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * 7 % count);
  return values;
}

void check_positions(Size grid, Size full) {
  const size_t threads = size_t{grid[0]} * grid[1] * grid[2];
  const auto out = run<uint32_t>("positions", {nullptr}, 0, threads * 20, grid, full);
  for (uint32_t z = 0; z < grid[2]; ++z)
    for (uint32_t y = 0; y < grid[1]; ++y)
      for (uint32_t x = 0; x < grid[0]; ++x) {
        const Size at = {x, y, z};
        Size group, in_group, size, groups;
        for (int d = 0; d < 3; ++d) {
          group[d] = at[d] / full[d];
          in_group[d] = at[d] % full[d];
          groups[d] = (grid[d] + full[d] - 1) / full[d];
          size[d] = std::min(full[d], grid[d] - group[d] * full[d]);
        }
        const uint32_t index = (in_group[2] * size[1] + in_group[1]) * size[0] + in_group[0];
        const uint32_t total = size[0] * size[1] * size[2];
        const std::vector<uint32_t> expected = {
            x,        y,           z,           group[0],    group[1],
            group[2], in_group[0], in_group[1], in_group[2], size[0],
            size[1],  size[2],     groups[0],   groups[1],   groups[2],
            grid[0],  index,       index % 32,  index / 32,  (total + 31) / 32};
        const uint32_t* found = &out[20 * ((size_t{z} * grid[1] + y) * grid[0] + x)];
        REQUIRE(std::vector<uint32_t>(found, found + 20) == expected);
      }
}
}  // namespace

TEST_CASE("positions in whole and ragged grids of one to three dimensions") {
  check_positions({64, 1, 1}, {32, 1, 1});
  check_positions({100, 1, 1}, {32, 1, 1});
  check_positions({5, 1, 1}, {1024, 1, 1});
  check_positions({7, 5, 1}, {4, 3, 1});
  check_positions({5, 4, 3}, {3, 3, 2});
  check_positions({1, 1, 1}, {1, 1, 1});
}

TEST_CASE("a barrier lets no thread pass before all have arrived") {
  for (uint32_t threads : {1u, 2u, 31u, 32u, 33u, 256u, 1000u, 1024u}) {
    const uint32_t rounds = threads > 100 ? 7 : 40;
    const std::vector<float> x = counted(threads * 2 - 1);  // the last threadgroup is ragged
    const auto out = run<float>(
        "rotate_many", {const_cast<float*>(x.data()), nullptr, const_cast<uint32_t*>(&rounds)}, 1,
        x.size(), {threads * 2 - 1, 1, 1}, {threads, 1, 1});
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t group = i / threads, size = group == 0 ? threads : threads - 1;
      REQUIRE(out[i] == x[group * threads + (i % threads + rounds) % size]);
    }
  }
}

TEST_CASE("SIMD-group functions, also in a group of fewer than 32 lanes") {
  for (uint32_t threads : {32u, 64u, 45u, 5u}) {
    const std::vector<float> x = counted(threads);
    const auto out = run<float>("simd_functions", {const_cast<float*>(x.data()), nullptr}, 1,
                                threads * 12, {threads, 1, 1}, {threads, 1, 1});
    for (uint32_t i = 0; i < threads; ++i) {
      const uint32_t first = i / 32 * 32, end = std::min(first + 32, threads), lane = i % 32;
      const auto begin = x.begin() + first, last = x.begin() + end;
      float sum = 0, before = 0;
      for (uint32_t k = first; k < end; ++k) {
        if (k < i) before += x[k];
        sum += x[k];
      }
      const float* o = &out[i * 12];
      CHECK(o[0] == sum);
      CHECK(o[1] == *std::max_element(begin, last));
      CHECK(o[2] == *std::min_element(begin, last));
      CHECK(o[3] == x[first + 2]);
      CHECK(o[4] == x[first + i % 3]);
      if (first + (lane ^ 1) < end) CHECK(o[5] == x[first + (lane ^ 1)]);
      // Lanes that are not there: undefined in Metal, a NaN here.
      if (i + 1 < end)
        CHECK(o[6] == x[i + 1]);
      else
        CHECK(std::isnan(o[6]));
      if (lane > 0)
        CHECK(o[7] == x[i - 1]);
      else
        CHECK(std::isnan(o[7]));
      CHECK(o[8] == before + x[i]);
      CHECK(o[9] == before);
      CHECK(o[10] == (*std::max_element(begin, last) > 30 ? 1 : 0));
      CHECK(o[11] == 1);
    }
  }
}

TEST_CASE("function constants are values of one launch") {
  const KernelInfo* info = find_kernel("constants");
  REQUIRE(info->constants.size() == 2);
  CHECK(std::string(info->constants[0].name) == "first_constant");
  CHECK(info->constants[0].index == 4);
  CHECK(info->constants[0].value == 3);
  CHECK(run<uint32_t>("constants", {nullptr}, 0, 5, {5, 1, 1}, {8, 1, 1}, {3, 5}) ==
        std::vector<uint32_t>(5, 305));
  CHECK(run<uint32_t>("constants", {nullptr}, 0, 2, {5, 1, 1}, {8, 1, 1}, {7, 2}) ==
        std::vector<uint32_t>(2, 702));
}

TEST_CASE("every element type of a binding") {
  const uint16_t a[] = {0x3c00, 0xc000, 0x3555, 0x0001};  // 1, -2, 0.333252, 2^-24
  const uint8_t b[] = {0, 1, 200, 255};
  const int32_t c[] = {-5, 6, INT32_MAX - 10, 0};
  alignas(16) const float d[] = {0.5f, -0.5f, 0, 2};
  const float scale = 2;
  const int32_t shift = -1;
  const float halves[] = {1.0f, -2.0f, 0.333251953125f, 0x1p-24f};
  const auto out = run<float>(
      "types",
      {const_cast<uint16_t*>(a), const_cast<uint8_t*>(b), const_cast<int32_t*>(c),
       const_cast<float*>(d), nullptr, const_cast<float*>(&scale), const_cast<int32_t*>(&shift)},
      4, 4, {4, 1, 1}, {32, 1, 1});
  for (int i = 0; i < 4; ++i)
    CHECK(out[i] == (halves[i] + float(b[i]) + float(c[i] + shift) + d[i]) * scale);
}

TEST_CASE("threads that diverge are told apart, and the executor goes on afterwards") {
  std::vector<float> x(64, 1.0f), out(64);
  uint32_t n = 64;
  const std::vector<void*> arguments = {x.data(), out.data(), &n};
  Executor executor;
  const auto fails = [&](const char* kernel, const char* what) {
    const Launch launch{*find_kernel(kernel), {}, arguments, {64, 1, 1}, {64, 1, 1}};
    CHECK_THROWS_WITH_AS(executor.run(launch), doctest::Contains(what), GpuError);
    const Launch sound{*find_kernel("sound"), {}, arguments, {64, 1, 1}, {64, 1, 1}};
    executor.run(sound);
    CHECK(out[63] == 65);
  };
  fails("barrier_in_branch", "thread 32 waits at threadgroup_barrier (broken.metal:");
  fails("two_barriers", "threadgroup (0, 0, 0): threads diverge: thread 0 waits at");
  fails("return_before_barrier", "thread 32 has returned");
  fails("simd_in_branch", "thread 8 has returned");
  fails("simd_at_two_places", "thread 8 waits at a SIMD-group function (broken.metal:");
  fails("simd_two_functions", "thread 8 waits at a SIMD-group function");
}

TEST_CASE("both tables have the same kernels in the same order") {
  REQUIRE(kernels().size() == kernel_table().size());
  for (const KernelInfo& info : kernel_table())
    CHECK(std::string(info.name) == kernel_of(info).name);
}
