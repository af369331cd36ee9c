// How much goes to the device at once, by time: what is learnt of it, and that it changes no bit.
#include <doctest/doctest.h>

#include "gpu_model.h"
#include "ops/gpu/pace.h"
#include "sparse.h"

using namespace moeflux;
using ops::gpu::Pace;
using Fault = FaultyDevice::Fault;

namespace {

const std::vector<std::vector<uint32_t>> kWork{prompt(18), {3}};
constexpr uint64_t kMillion = 1'000'000;
const Pace::Kernel kA{"a"}, kB{"b", "Bits", 4};

device::Limits budgets(uint64_t dispatch_ns, uint64_t buffer_ns) {
  device::Limits limits;
  limits.dispatch_ns = dispatch_ns;
  limits.buffer_ns = buffer_ns;
  return limits;
}

Pace::Part macs(const Pace::Kernel& kernel, uint64_t n) {
  return {kernel, {n, true}};
}

GpuModel cut(GpuModel::Device device, uint64_t buffer_ns, uint32_t slots = 4) {
  device->set_budgets(1, buffer_ns);
  return GpuModel(std::move(device), {slots, 1, {}});
}

Logits run(GpuModel& gpu, int* failures = nullptr) {
  return run_steps<GpuError>(gpu, kWork, failures);
}

const Logits& expected() {
  static const Logits logits = [] {
    GpuModel gpu(4);
    return run(gpu);
  }();
  return logits;
}

}  // namespace

TEST_CASE("pace: without budgets all goes at once, and nothing is learnt") {
  Pace pace(budgets(0, 0));
  CHECK(!pace.is_limited());
  CHECK(pace.fits(1e18, macs(kA, UINT64_MAX)));
  CHECK(pace.most_macs(kA) == UINT64_MAX);
  const double before = pace.ns(macs(kA, kMillion));
  pace.learn(std::vector{macs(kA, kMillion)}, 1'000 * kMillion, false);
  CHECK(pace.ns(macs(kA, kMillion)) == before);
}

TEST_CASE("pace: a rate goes up at once and down by steps, for all that ran together") {
  Pace pace(budgets(10 * kMillion, 50 * kMillion));
  const auto part = macs(kA, 1'000 * kMillion), other = macs(kB, 1'000 * kMillion);
  const uint64_t start = pace.most_macs(kA);
  CHECK(start > 0);
  CHECK(start < uint64_t{1} << 36);  // careful, as long as nothing is known
  pace.learn(std::vector{part}, 100 * kMillion, false);
  CHECK(pace.ns(part) >= 99.0 * kMillion);
  CHECK(!pace.fits(0, part));
  CHECK(pace.fits(0, macs(kA, 100 * kMillion)));
  CHECK(pace.ns(other) < 10.0 * kMillion);  // did not run
  for (int i = 0; i < 30; ++i) pace.learn(std::vector{part}, kMillion, false);
  CHECK(pace.ns(part) < 2.0 * kMillion);
  CHECK(pace.most_macs(kA) > 5'000 * kMillion);
  // One fast command buffer, as of a pass that ended early, halves it at most.
  const double before = pace.ns(part);
  pace.learn(std::vector{part}, 1, false);
  CHECK(pace.ns(part) > 0.49 * before);
  pace.learn(std::vector{part, other}, 400 * kMillion, false);
  CHECK(pace.ns(part) > 10.0 * kMillion);
  CHECK(pace.ns(other) > 200.0 * kMillion);
}

TEST_CASE("pace: forms of a kernel are told apart by each of their constants") {
  Pace pace(budgets(10 * kMillion, 50 * kMillion));
  const Pace::Kernel plain{"a", "Bits", 4}, other{"a", "Matrices", 4};
  Pace::Kernel matrices = plain;
  matrices.set("Matrices", 1);
  const double before = pace.ns(macs(plain, kMillion));
  pace.learn(std::vector{macs(matrices, kMillion)}, 1'000 * kMillion, false);
  CHECK(pace.ns(macs(plain, kMillion)) == before);
  CHECK(pace.ns(macs(other, kMillion)) == before);
  CHECK(pace.most_macs(matrices) < pace.most_macs(plain));
}

TEST_CASE("pace: what the system ended is cut finer the next time, however long it took") {
  Pace pace(budgets(10 * kMillion, 50 * kMillion));
  const auto part = macs(kA, kMillion);
  const double before = pace.ns(part);
  pace.learn(std::vector{part}, 0, true);  // ignored, and never ran
  CHECK(pace.ns(part) == before);
  pace.learn(std::vector{part}, 1, true);
  CHECK(pace.ns(part) > 1.3 * before);
  pace.learn(std::vector{part}, 0, false);  // a device without time stamps
  CHECK(pace.ns(part) > 1.3 * before);
  CHECK(pace.most_macs(kA) >= 1);
  for (int i = 0; i < 200; ++i) pace.learn(std::vector{part}, UINT64_MAX, true);
  CHECK(pace.most_macs(kA) == 1);  // no less
}

TEST_CASE("pace: command buffers cut after every dispatch change no bit and count as one commit") {
  GpuModel gpu = cut(GpuModel::open({.max_delay_us = 20}), 1);
  const uint64_t before = gpu.device->seen().calls[Fault::commit];
  CHECK(same_bits(run(gpu), expected()));
  const uint64_t cut_into = gpu.device->seen().calls[Fault::commit] - before;
  CHECK(cut_into == gpu.stats().counts.dispatches);
  CHECK(gpu.stats().pipeline.commits < cut_into / 4);
}

TEST_CASE("pace: some time between one dispatch and all changes no bit either") {
  for (const uint64_t buffer_ns : {100'000u, 3'000'000u}) {
    GpuModel gpu = cut(GpuModel::open(), buffer_ns, 48);
    CHECK(same_bits(run(gpu), expected()));
  }
}

TEST_CASE("pace: a fault in any part leaves nothing under way, and the repeat is exact") {
  std::map<Fault, uint64_t> before, calls;
  {
    GpuModel gpu = cut(GpuModel::open(), 1);
    before = gpu.device->seen().calls;
    run(gpu);
    calls = gpu.device->seen().calls;
  }
  for (const Fault fault : {Fault::commands, Fault::commit, Fault::execution})
    for (uint64_t i = 0; i < 5; i += kSparse) {
      const uint64_t at = (calls[fault] - before[fault]) * i / 5;
      CAPTURE(int(fault));
      CAPTURE(at);
      GpuModel gpu = cut(GpuModel::open({.max_delay_us = 20}), 1);
      gpu.device->inject(fault, at);
      int failures = 0;
      CHECK(same_bits(run(gpu, &failures), expected()));
      CHECK(failures == (gpu.device->pending() ? 0 : 1));
    }
}
