// A whole model on a device that is late and of which any call may fail: what is handed over is
// counted, every failure is a typed error, and the session is as before the step.
#include <doctest/doctest.h>

#include "gpu_model.h"
#include "sparse.h"

using namespace moeflux;
using Fault = FaultyDevice::Fault;

namespace {

const std::vector<std::vector<uint32_t>>& work() {
  static const std::vector<std::vector<uint32_t>> steps{prompt(20), {3}, {50}, {7}};
  return steps;
}

Logits run(GpuModel& gpu, int* failures = nullptr) {
  return run_steps(gpu, work(), failures);
}

const Logits& expected() {
  static const Logits logits = [] {
    GpuModel gpu(0);
    return run(gpu);
  }();
  return logits;
}

}  // namespace

TEST_CASE("gpu: a slot keeps its expert until the command buffers that read it are done") {
  GpuModel gpu(3, {.max_delay_us = 3000}, {.short_reads = true});  // reads overtake the device
  CHECK(same_bits(run(gpu), expected()));
  CHECK(gpu.stats().store.evictions > 30);
}

TEST_CASE("gpu: one wait a MoE layer and one a token, two commits a layer at most") {
  for (const uint32_t slots : {3u, 48u}) {
    TinyModel::Options options{slots, 1, {.delay_us = 300}};
    options.run_ahead = false;  // test_run_ahead.cpp
    GpuModel gpu(GpuModel::open(), options);
    const auto session = gpu.model->session();
    gpu.model->step(*session, prompt(9));
    for (const uint32_t token : {3u, 50u, 7u}) {
      const engine::Stats before = gpu.stats();
      const uint64_t commits = gpu.device->seen().calls[Fault::commit];
      const uint64_t run = gpu.device->seen().dispatches;
      gpu.model->step(*session, {token});
      const engine::Stats after = gpu.stats();
      const uint64_t handed_over = after.pipeline.commits - before.pipeline.commits;
      CHECK(after.pipeline.waits - before.pipeline.waits == TinyModel::kMoeLayers + 1);
      CHECK(handed_over >= TinyModel::kMoeLayers + 1);
      CHECK(handed_over <= 2 * TinyModel::kMoeLayers + 1);
      // What the engine and the ops count is what the device was given.
      CHECK(gpu.device->seen().calls[Fault::commit] - commits == handed_over);
      CHECK(gpu.device->seen().dispatches - run ==
            after.counts.dispatches - before.counts.dispatches);
    }
  }
}

TEST_CASE("gpu: a fault of the device at any call leaves the session, the repeat is exact") {
  std::map<Fault, uint64_t> before, calls;
  {
    GpuModel gpu(4);
    before = gpu.device->seen().calls;
    run(gpu);
    calls = gpu.device->seen().calls;
  }
  for (const Fault fault : {Fault::commands, Fault::commit, Fault::execution}) {
    const uint64_t n = calls[fault] - before[fault];
    REQUIRE(n > 20);
    for (uint64_t at = 0; at < n; at += 9 * kSparse) {
      CAPTURE(int(fault));
      CAPTURE(at);
      GpuModel gpu(4, {.max_delay_us = 50});
      gpu.device->inject(fault, at);
      int failures = 0;
      CHECK(same_bits(run(gpu, &failures), expected()));
      // How many command buffers there are depends on which reads arrive together.
      CHECK(failures == (gpu.device->pending() ? 0 : 1));
    }
  }
}

TEST_CASE("gpu: what a failed step has recorded is not run by the next") {
  GpuModel gpu(0);
  const auto session = gpu.model->session();
  const auto dispatches = [&] {  // of one token whose experts are all in memory
    const uint64_t before = gpu.device->seen().dispatches;
    session->reset();
    gpu.model->step(*session, {7});
    return gpu.device->seen().dispatches - before;
  };
  dispatches();
  const uint64_t undisturbed = dispatches();
  for (uint64_t at = 0; at < 3; ++at) {
    gpu.device->inject(Fault::commit, at);
    CHECK_THROWS_AS(dispatches(), GpuError);
    CHECK(dispatches() == undisturbed);
  }
}

TEST_CASE("gpu: the fault is a GpuError of the device's own words") {
  GpuModel gpu(4);
  const auto session = gpu.model->session();
  gpu.device->inject(Fault::execution);
  CHECK_THROWS_WITH_AS(gpu.model->step(*session, {1, 2}), doctest::Contains("Address Fault"),
                       GpuError);
}

TEST_CASE("gpu: a slot without memory is another expert's, a session without is a GpuError") {
  const uint64_t before = [] {
    GpuModel gpu(0);
    const uint64_t calls = gpu.device->seen().calls[Fault::buffer];
    run(gpu);
    return gpu.device->seen().calls[Fault::buffer] - calls;
  }();
  REQUIRE(before > 10);
  const uint64_t of_session = [] {
    GpuModel gpu(0);
    const uint64_t calls = gpu.device->seen().calls[Fault::buffer];
    gpu.model->session();
    return gpu.device->seen().calls[Fault::buffer] - calls;
  }();
  for (uint64_t at = of_session; at < before; at += 11 * kSparse) {
    GpuModel gpu(0);
    gpu.device->inject(Fault::buffer, at);
    int failures = 0;
    CHECK(same_bits(run(gpu, &failures), expected()));
    CHECK(failures <= 1);
    CHECK(gpu.stats().live_bytes <= gpu.stats().limit_bytes);
  }
  GpuModel gpu(0);
  const uint64_t live = gpu.stats().live_bytes;
  gpu.device->inject(Fault::buffer);
  CHECK_THROWS_AS(gpu.model->session(), GpuError);
  CHECK(gpu.stats().live_bytes == live);
}

TEST_CASE("gpu: a load that finds no memory or no pipeline is a GpuError at each place") {
  for (const Fault fault : {Fault::buffer, Fault::pipeline}) {
    uint64_t failures = 0;
    for (bool failed = true; failed; failures += failed) {
      REQUIRE(failures < 500);
      failed = false;
      const auto device = std::make_shared<FaultyDevice>(device::open_host());
      device->inject(fault, failures * (fault == Fault::buffer ? 7 : 1));
      try {
        GpuModel gpu(device, {4, 1});
        gpu.model->session();
        CHECK(device->pending());  // a pipeline or a buffer that is asked for in a step comes later
      } catch (const GpuError&) {
        failed = true;
      }
      CHECK(failed == !device->pending());
      CHECK(device->live_bytes() == 0);
    }
    CHECK(failures >= 10);
  }
}

TEST_CASE("gpu: a read that fails during a step is an IoError, and the repeat is exact") {
  int64_t n_reads;
  {
    GpuModel gpu(4);
    run(gpu);
    n_reads = gpu.model->file().reads();
  }
  REQUIRE(n_reads > 100);
  for (int64_t at = 0; at < n_reads; at += 67 * kSparse) {
    CAPTURE(at);
    GpuModel gpu(4, {.max_delay_us = 50}, {.fail_from = at, .fail_count = 1});
    int failures = 0;
    CHECK(same_bits(run(gpu, &failures), expected()));
    CHECK(failures <= 1);
  }
}

TEST_CASE("gpu: an interrupt while the engine waits leaves the session, the repeat is exact") {
  struct Interrupt : Error {
    Interrupt() : Error("interrupt") {}
  };
  GpuModel gpu(4, {.max_delay_us = 120000});  // the poll is asked every 50 ms
  int polls = 0;
  gpu.model->engine().set_poll([&] {
    if (++polls == 2) throw Interrupt();
  });
  const auto session = gpu.model->session();
  CHECK_THROWS_AS(gpu.model->step(*session, prompt(8)), Interrupt);
  CHECK(gpu.device->in_flight() == 0);  // the session is the caller's again: nothing writes it
  CHECK(session->position() == 0);
  CHECK(store::ExpertStoreTest::n_pinned(gpu.model->engine().store()) == 0);
  const Logits logits = gpu.model->step(*session, prompt(8));
  CHECK(std::memcmp(logits.data(), expected().data(), logits.size() * sizeof(float)) == 0);
}
