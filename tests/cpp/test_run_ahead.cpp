// Layers that are told to a device ahead of their answers: bits and counts are those of a model that
// waits for each, whatever is missing, late or at fault.
#include <doctest/doctest.h>

#include <cmath>
#include <thread>

#include "gpu_model.h"
#include "order.h"
#include "sparse.h"

using namespace moeflux;
using Fault = FaultyDevice::Fault;
using store::ExpertStoreTest;

namespace {

constexpr uint32_t kTokens[] = {3, 50, 7, 90, 11, 62, 3, 44, 19, 88, 7, 50};
constexpr uint64_t kUses = TinyModel::kMoeLayers * TinyModel::kTopK;  // of experts, by a token

TinyModel::Options options(uint32_t slots, bool run_ahead, FaultyFile::Faults faults = {}) {
  TinyModel::Options options{slots, 1, faults};
  options.run_ahead = run_ahead;
  return options;
}

device::host::Options late(uint32_t seed, uint32_t max_delay_us) {
  device::host::Options host;
  host.seed = seed;
  if (seed) host.order = device::host::random_legal_order;
  host.max_delay_us = max_delay_us;
  return host;
}

struct Step {
  Logits logits;
  store::StoreStats store;
  engine::PipelineStats pipeline;
};

// A prompt, then single tokens; `before` is called before each of these.
std::vector<Step> run(GpuModel& gpu, const std::function<void(size_t)>& before = {}) {
  const auto session = gpu.model->session();
  gpu.model->step(*session, prompt(9));
  std::vector<Step> steps;
  for (const uint32_t token : kTokens) {
    if (before) before(steps.size());
    Logits logits = gpu.model->step(*session, {token});
    const engine::Stats stats = gpu.stats();
    steps.push_back({std::move(logits), stats.store, stats.pipeline});
  }
  return steps;
}

void check_same(const std::vector<Step>& found, const std::vector<Step>& expected) {
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(same_bits(found[i].logits, expected[i].logits));
    CHECK(found[i].store.hits == expected[i].store.hits);
    CHECK(found[i].store.misses == expected[i].store.misses);
    CHECK(found[i].store.evictions == expected[i].store.evictions);
    CHECK(found[i].store.bytes_read == expected[i].store.bytes_read);
  }
}

store::ExpertStore& store_of(GpuModel& gpu) {
  return const_cast<store::ExpertStore&>(gpu.model->engine().store());
}

// Brings every expert into memory. There are slots for all.
void warm(GpuModel& gpu) {
  store::ExpertStore& store = store_of(gpu);
  for (uint32_t layer = 0; layer < TinyModel::kMoeLayers; ++layer)
    for (uint32_t expert = 0; expert < TinyModel::kExperts; ++expert) {
      const auto pin = store.try_acquire(layer, expert, store::Use::decode);
      while (!pin->ready()) std::this_thread::yield();
    }
}

uint64_t finds(GpuModel& gpu) {
  const auto kernels = gpu.stats().counts.kernels;
  const auto found = kernels.find("find_experts");
  return found == kernels.end() ? 0 : found->second;
}

}  // namespace

TEST_CASE("ahead: a token whose experts are in memory costs one wait") {
  GpuModel gpu(0);
  warm(gpu);
  const auto session = gpu.model->session();
  gpu.model->step(*session, prompt(9));
  for (const uint32_t token : kTokens) {
    const engine::Stats before = gpu.stats();
    const uint64_t lookups = finds(gpu);
    gpu.model->step(*session, {token});
    const engine::Stats after = gpu.stats();
    CHECK(after.pipeline.waits - before.pipeline.waits == 1);
    CHECK(after.pipeline.commits - before.pipeline.commits == TinyModel::kMoeLayers + 1);
    CHECK(after.store.hits - before.store.hits == kUses);
    CHECK(after.store.misses == before.store.misses);
    CHECK(finds(gpu) - lookups == TinyModel::kMoeLayers);
  }
}

TEST_CASE("ahead: bits and counts are those of a model that waits") {
  for (const uint32_t slots : {3u, 6u, 14u, 26u, 40u, 47u, 0u}) {
    CAPTURE(slots);
    GpuModel waits(GpuModel::open(), options(slots, false));
    const auto expected = run(waits);
    CHECK(finds(waits) == 0);
    for (const auto& [seed, delay] : {std::pair(0u, 0u), std::pair(1u, 0u), std::pair(2u, 400u)}) {
      CAPTURE(seed);
      GpuModel ahead(GpuModel::open(late(seed, delay)),
                     options(slots, true, {.delay_us = delay ? 200 : 0}));
      check_same(run(ahead), expected);
      CHECK(finds(ahead) > 0);
      ExpertStoreTest::assert_invariants(ahead.model->engine().store());
    }
  }
}

TEST_CASE("ahead: experts of several sizes, of which some are always missing, change no bit") {
  const auto of = [](uint32_t slots, bool run_ahead) {
    TinyModel::Options made = options(slots, run_ahead);
    made.first_experts = "affine8";
    return made;
  };
  GpuModel all(GpuModel::open(), of(0, false));
  const auto expected = run(all);
  for (const uint32_t slots : {8u, 30u, 0u}) {
    CAPTURE(slots);
    GpuModel ahead(GpuModel::open(late(slots, 0)), of(slots, true));
    const auto found = run(ahead);
    CHECK(finds(ahead) > 0);
    CHECK((slots == 0) == (found.back().store.evictions == 0));
    for (size_t i = 0; i < found.size(); ++i) CHECK(same_bits(found[i].logits, expected[i].logits));
    ExpertStoreTest::assert_invariants(ahead.model->engine().store());
  }
}

TEST_CASE("ahead: another budget between tokens changes no bit") {
  GpuModel waits(GpuModel::open(), options(0, false));
  const auto expected = run(waits);
  GpuModel gpu(0);
  engine::Engine& engine = gpu.model->engine();
  const auto found = run(gpu, [&](size_t token) {
    engine.set_memory(token % 3 == 1 ? engine.least_bytes() : uint64_t{64} << 20);
  });
  CHECK(finds(gpu) > 0);
  for (size_t i = 0; i < found.size(); ++i) CHECK(same_bits(found[i].logits, expected[i].logits));
}

TEST_CASE("ahead: a session goes on past its first extent") {
  std::vector<std::vector<uint32_t>> steps{prompt(ops::kCacheExtent - 4)};
  for (uint32_t token = 0; token < 9; ++token) steps.push_back({token * 7});
  const auto with = [](TinyModel::Options made) {
    made.context = ops::kCacheExtent + 32;
    return made;
  };
  GpuModel waits(GpuModel::open(), with(options(0, false)));
  GpuModel ahead(GpuModel::open(), with(options(0, true)));
  const Logits expected = run_steps(waits, steps), found = run_steps(ahead, steps);
  CHECK(finds(ahead) > 0);
  CHECK(same_bits(found, expected));
  TinyModel cpu(with({}));
  const auto session = cpu.session();
  Logits near;
  for (const auto& tokens : steps) {
    const auto logits = cpu.step(*session, tokens);
    near.insert(near.end(), logits.begin(), logits.end());
  }
  REQUIRE(near.size() == found.size());
  float most = 0, error = 0;
  for (size_t i = 0; i < near.size(); ++i) {
    most = std::max(most, std::fabs(near[i]));
    error = std::max(error, std::fabs(near[i] - found[i]));
  }
  CHECK(error < 1e-3f * most);
}

TEST_CASE("ahead: experts may be missing at any layer of any token") {
  // Expert by expert of a layer, so that hits and misses of one layer come together.
  const auto lose = [](GpuModel& gpu, uint32_t layer, uint32_t some) {
    return [&gpu, layer, some](size_t token) {
      for (uint32_t expert = 0; expert < TinyModel::kExperts; ++expert)
        if ((expert + token) % some == 0) ExpertStoreTest::drop(store_of(gpu), layer, expert);
    };
  };
  for (uint32_t layer = 0; layer < TinyModel::kMoeLayers; ++layer)
    for (const uint32_t some : {1u, 4u}) {
      CAPTURE(layer);
      CAPTURE(some);
      GpuModel waits(GpuModel::open(), options(0, false));
      warm(waits);
      const auto expected = run(waits, lose(waits, layer, some));
      GpuModel ahead(GpuModel::open(late(layer + 1, 300)), options(0, true, {.delay_us = 200}));
      warm(ahead);
      check_same(run(ahead, lose(ahead, layer, some)), expected);
    }
}

TEST_CASE("ahead: what the device does not find is computed all the same") {
  GpuModel waits(GpuModel::open(), options(0, false));
  warm(waits);
  const auto expected = run(waits);
  for (uint32_t layer = 0; layer < TinyModel::kMoeLayers; ++layer) {
    CAPTURE(layer);
    GpuModel ahead(GpuModel::open(late(0, 100)), options(0, true));
    warm(ahead);
    auto* entries = const_cast<uint32_t*>(ahead.model->engine().store().table_of(layer));
    std::fill_n(entries, TinyModel::kExperts, store::ExpertTable::kAbsent);
    check_same(run(ahead), expected);
  }
}

TEST_CASE("ahead: a layer that mostly misses is waited for, until it hits again") {
  GpuModel gpu(0);
  warm(gpu);
  const auto session = gpu.model->session();
  const auto waits_of = [&](bool lose) {
    if (lose)
      for (uint32_t expert = 0; expert < TinyModel::kExperts; ++expert)
        ExpertStoreTest::drop(store_of(gpu), 1, expert);
    const uint64_t before = gpu.stats().pipeline.waits;
    session->reset();
    gpu.model->step(*session, {7});
    return gpu.stats().pipeline.waits - before;
  };
  CHECK(waits_of(false) == 1);
  for (int i = 0; i < 40; ++i) CHECK(waits_of(true) == 2);
  CHECK(waits_of(false) == 2);  // it is not told what comes behind
  for (int i = 0; i < 60; ++i) waits_of(false);
  CHECK(waits_of(false) == 1);
}

TEST_CASE("ahead: guesses give way when misses are rare, and come back") {
  TinyModel::Options asked = options(47, true);  // one less than there are experts
  asked.read_ahead = true;
  GpuModel gpu(GpuModel::open(), asked);
  const auto session = gpu.model->session();
  const auto step = [&] {
    const uint64_t before = finds(gpu);
    session->reset();
    gpu.model->step(*session, {7});
    return finds(gpu) - before;
  };
  for (int i = 0; i < 10; ++i) CHECK(step() == 0);
  for (int i = 0; i < 30; ++i) step();
  CHECK(step() == TinyModel::kMoeLayers);
  const auto lose = [&] {
    for (uint32_t layer = 0; layer < TinyModel::kMoeLayers; ++layer)
      for (uint32_t expert = 0; expert < TinyModel::kExperts; ++expert)
        ExpertStoreTest::drop(store_of(gpu), layer, expert);
  };
  for (int i = 0; i < 4; ++i) {
    lose();
    step();
  }
  CHECK(step() == 0);
}

TEST_CASE("ahead: who looks into a layer, or changes it, is answered layer by layer") {
  TinyModel::Options by_chunk = options(0, true);
  by_chunk.rows = TinyModel::kChunk;
  GpuModel gpu(GpuModel::open(), by_chunk);
  warm(gpu);
  const auto session = gpu.model->session();
  Logits out(2 * TinyModel::kVocab);
  std::vector<int32_t> experts(TinyModel::kLayers * TinyModel::kTopK);
  std::vector<float> weights(experts.size());
  const std::vector<uint32_t> one{7}, two{7, 9};
  engine::Request request{session.get(), one, true, TinyModel::writer(out), {}};
  const auto finds_of = [&](const engine::Request& asked) {
    const uint64_t before = finds(gpu);
    gpu.model->engine().step({&asked, 1});
    return finds(gpu) - before;
  };
  CHECK(finds_of(request) == TinyModel::kMoeLayers);
  engine::Request rows = request;
  rows.tokens = two;
  CHECK(finds_of(rows) == 0);
  const auto other = gpu.model->session();
  engine::Request left_over = request;  // the last row is a pass of its own
  left_over.session = other.get();
  const std::vector<uint32_t> more_than_a_chunk = prompt(TinyModel::kChunk + 1);
  left_over.tokens = more_than_a_chunk;
  left_over.on_logits = nullptr;
  CHECK(finds_of(left_over) == 0);
  engine::Request seen = request;
  seen.capture.experts = experts.data();
  seen.capture.weights = weights.data();
  seen.capture.top_k = TinyModel::kTopK;
  CHECK(finds_of(seen) == 0);
  engine::RoutingOverride override;
  override.masked.assign(TinyModel::kLayers * TinyModel::kExperts, 0);
  const auto made = gpu.model->engine().new_override(std::move(override));
  engine::Request overridden = request;
  overridden.routing = made.get();
  CHECK(finds_of(overridden) == 0);
  CHECK(finds_of(request) == TinyModel::kMoeLayers);
}

namespace {

Logits persist(GpuModel& gpu, int& failures) {
  std::vector<std::vector<uint32_t>> steps{prompt(9)};
  for (const uint32_t token : kTokens) steps.push_back({token});
  return run_steps(gpu, steps, &failures);
}

Logits undisturbed() {
  GpuModel gpu(GpuModel::open(), options(0, false));
  int failures = 0;
  Logits logits = persist(gpu, failures);
  REQUIRE(failures == 0);
  return logits;
}

}  // namespace

TEST_CASE("ahead: a fault of the device at any call leaves the session, the repeat is exact") {
  const Logits expected = undisturbed();
  for (const uint32_t slots : {0u, 30u})
    for (const Fault fault : {Fault::commands, Fault::commit, Fault::execution}) {
      int failures = 0;
      uint64_t first = 0, last = 0;
      {
        GpuModel gpu(slots);
        first = gpu.device->seen().calls[fault];
        persist(gpu, failures);
        last = gpu.device->seen().calls[fault];
      }
      REQUIRE(last - first > 60);
      for (uint64_t at = 0; at < last - first; at += 7 * kSparse) {
        CAPTURE(int(fault));
        CAPTURE(at);
        GpuModel gpu(slots, late(0, 50));
        gpu.device->inject(fault, at);
        failures = 0;
        CHECK(same_bits(persist(gpu, failures), expected));
        // How many command buffers there are depends on which reads arrive together.
        CHECK(failures == (gpu.device->pending() ? 0 : 1));
      }
    }
}

TEST_CASE("ahead: a read that fails behind a lookup is an IoError, and the repeat is exact") {
  const Logits expected = undisturbed();
  int64_t n_reads = 0;
  int failures = 0;
  {
    GpuModel gpu(30);
    persist(gpu, failures);
    n_reads = gpu.model->file().reads();
  }
  REQUIRE(n_reads > 100);
  for (int64_t at = 0; at < n_reads; at += 23 * kSparse) {
    CAPTURE(at);
    GpuModel gpu(30, late(0, 50), {.fail_from = at, .fail_count = 1});
    failures = 0;
    CHECK(same_bits(persist(gpu, failures), expected));
    CHECK(failures == 1);
  }
}

TEST_CASE("ahead: an interrupt waits for a few layers and no more") {
  struct Interrupt : Error {
    Interrupt() : Error("interrupt") {}
  };
  GpuModel gpu(0, late(0, 60000));  // the poll is asked every 50 ms
  warm(gpu);
  const auto session = gpu.model->session();
  const Logits expected = gpu.model->step(*session, {7});
  session->reset();
  int polls = 0;
  size_t under_way = 0;
  gpu.model->engine().set_poll([&] {
    under_way = gpu.device->in_flight();
    if (++polls == 1) throw Interrupt();
  });
  CHECK_THROWS_AS(gpu.model->step(*session, {7}), Interrupt);
  CHECK(under_way <= 4);
  CHECK(gpu.device->in_flight() == 0);
  CHECK(session->position() == 0);
  CHECK(ExpertStoreTest::n_pinned(gpu.model->engine().store()) == 0);
  CHECK(same_bits(gpu.model->step(*session, {7}), expected));
}

TEST_CASE("gpu: a fault in a wide pass leaves the session, and the repeat is exact") {
  std::vector<std::vector<uint32_t>> steps{prompt(30), {3}};
  const auto wide = [](uint32_t seed) {
    TinyModel::Options made = options(4, true);
    made.rows = 32;
    return GpuModel(GpuModel::open(late(0, seed)), made);
  };
  std::map<Fault, uint64_t> before, after;
  Logits expected;
  {
    GpuModel gpu = wide(0);
    before = gpu.device->seen().calls;
    expected = run_steps(gpu, steps);
    after = gpu.device->seen().calls;
    CHECK(gpu.stats().passes == 2);
  }
  for (const Fault fault : {Fault::commands, Fault::commit, Fault::execution})
    for (uint64_t i = 0; i < 5; i += kSparse) {
      const uint64_t at = (after[fault] - before[fault]) * i / 5;
      CAPTURE(int(fault));
      CAPTURE(at);
      GpuModel gpu = wide(20);
      gpu.device->inject(fault, at);
      int failures = 0;
      CHECK(same_bits(run_steps(gpu, steps, &failures), expected));
      CHECK(failures == (gpu.device->pending() ? 0 : 1));
    }
}
