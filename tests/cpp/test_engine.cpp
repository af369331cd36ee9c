// The engine against the ops contract: ops that queue give the bits of ops that compute in the
// call, and a step that fails anywhere leaves its sessions as they were.
#include <doctest/doctest.h>

#include <chrono>
#include <thread>

#include "engine_fixture.h"
#include "sparse.h"

using namespace moeflux;

namespace {

// A prompt of three passes and a few tokens of decode.
Logits run(TinyModel& model, engine::Session& session) {
  Logits all = model.step(session, prompt(20));
  for (uint32_t token : {3u, 50u, 7u}) {
    const Logits one = model.step(session, {token});
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}
Logits run(TinyModel& model) {
  const auto session = model.session();
  return run(model, *session);
}

const Logits& expected() {
  static const Logits logits = [] {
    TinyModel model({});
    return run(model);
  }();
  return logits;
}

}  // namespace

TEST_CASE("logits are finite and differ from token to token") {
  const Logits& logits = expected();
  for (float value : logits) REQUIRE(std::isfinite(value));
  for (size_t row = 1; row < logits.size() / TinyModel::kVocab; ++row)
    CHECK(std::memcmp(&logits[row * TinyModel::kVocab], &logits[(row - 1) * TinyModel::kVocab],
                      TinyModel::kVocab * 4) != 0);
}

TEST_CASE("tokens one by one have the bits of a prompt in passes") {
  TinyModel model({});
  const auto session = model.session();
  Logits all;
  std::vector<uint32_t> tokens = prompt(20);
  for (uint32_t last : {3u, 50u, 7u}) tokens.push_back(last);
  for (uint32_t token : tokens) {
    const Logits one = model.step(*session, {token});
    all.insert(all.end(), one.begin(), one.end());
  }
  CHECK(same_bits(all, expected()));
}

// Rows that are prepared for products, of all formats, in ops that compute in the call.
uint64_t rows_prepared(bool read_ahead) {
  static std::atomic<uint64_t> count;
  static ops::cpu::Kernels counting;
  counting = *ops::cpu::kernels_portable();
  counting.prepare = [](const ops::cpu::InputFormat& format, const float* x, uint32_t in,
                        std::byte* record) {
    ++count;
    ops::cpu::kernels_portable()->prepare(format, x, in, record);
  };
  count = 0;
  const auto make_ops = [](std::unique_ptr<ops::Ops>, TinyModel& model) {
    return std::make_unique<ops::cpu::CpuOps>(model.arena(), counting, 2, ops::Precision::float32);
  };
  // Rows of a wide pass are prepared by batch of experts, and whether one is wide depends on reads.
  TinyModel model(
      {.max_slots = 4, .make_ops = make_ops, .read_ahead = read_ahead, .rows = TinyModel::kChunk});
  CHECK(same_bits(run(model), expected()));
  return count;
}

TEST_CASE("reading ahead prepares the rows of its guesses, and none of a layer's again") {
  const uint64_t tokens = 23, guesses = TinyModel::kMoeLayers - 1;
  CHECK(rows_prepared(true) == rows_prepared(false) + tokens * guesses);
}

TEST_CASE("ops that queue give the same bits at every number of slots and delay") {
  for (uint32_t slots : {3u, 4u, 7u, 12u, 48u})
    for (uint32_t seed : {1u, 2u, 3u}) {
      TinyModel model({slots,
                       2,
                       {.short_reads = true, .delay_us = int(seed * 20)},
                       queued(seed, seed == 3 ? 0 : 100)});
      CAPTURE(slots);
      CAPTURE(seed);
      CHECK(same_bits(run(model), expected()));
      CHECK(model.engine().stats().store.misses > 0);
      store::ExpertStoreTest::assert_invariants(model.engine().store());
    }
}

TEST_CASE("threads and slots change no bit when ops compute in the call") {
  for (uint32_t slots : {3u, 5u, 48u})
    for (int threads : {1, 3}) {
      TinyModel model({slots, threads});
      CHECK(same_bits(run(model), expected()));
    }
}

TEST_CASE("decode waits once a MoE layer and once a token, with two commits a layer at most") {
  for (const bool queues : {false, true}) {
    TinyModel model({0, 2, {.delay_us = 300}, queues ? queued(4, 50) : TinyModel::MakeOps()});
    const auto session = model.session();
    const auto cost = [&](uint32_t token) {
      const engine::Stats before = model.engine().stats();
      model.step(*session, {token});
      const engine::Stats after = model.engine().stats();
      CHECK(after.pipeline.waits - before.pipeline.waits == TinyModel::kMoeLayers + 1);
      return std::pair(after.pipeline.commits - before.pipeline.commits,
                       after.store.misses - before.store.misses);
    };
    const auto [cold_commits, cold_misses] = cost(5);
    CHECK(cold_misses == TinyModel::kMoeLayers * TinyModel::kTopK);
    CHECK(cold_commits <= 2 * TinyModel::kMoeLayers + 1);
    CHECK(cold_commits > TinyModel::kMoeLayers + 1);
    session->reset();
    const auto [warm_commits, warm_misses] = cost(5);
    CHECK(warm_misses == 0);
    CHECK(warm_commits == TinyModel::kMoeLayers + 1);
  }
}

TEST_CASE("a pin that is released before its ticket is done is caught") {
  base::Account account(1 << 20);
  base::HeapArena arena(account);
  const store::LayerExperts layer{1, {{64, 0, {0}, {0}}}};
  store::ExpertStore store({io::open_memory(noise(64), "expert")}, {layer}, arena, {1, 1, 1});
  const auto cpu = [&] {
    return std::make_unique<ops::cpu::CpuOps>(arena, ops::cpu::select_kernels("portable"), 1,
                                              ops::Precision::float32);
  };
  QueuedOps::Options options;
  options.check_job = [&](const ops::ExpertJob& job) {
    if (!store::ExpertStoreTest::is_pinned(store, job.ffn.gate.weight.planes[quant::kCodes]))
      throw std::logic_error("not pinned");
  };
  QueuedOps queue(cpu(), options);
  queue.reserve({});
  for (const bool released_early : {true, false}) {
    auto pin = store.try_acquire(0, 0, store::Use::decode);
    REQUIRE(pin);
    while (!pin->ready()) std::this_thread::yield();
    ops::ExpertJob job;  // no rows: nothing is computed, only the pin is looked at
    job.ffn.gate.weight.planes[quant::kCodes] = pin->data();
    engine::Pipeline pipeline(queue, std::make_shared<base::Bell>());
    pipeline.enqueue().experts({&job, 1}, {}, nullptr);
    if (!released_early) pipeline.hold(std::move(*pin));
    pin.reset();
    if (released_early)
      CHECK_THROWS_AS(pipeline.finish(), std::logic_error);
    else
      pipeline.finish();
    pipeline.drain();
    CHECK_FALSE(
        store::ExpertStoreTest::is_pinned(store, job.ffn.gate.weight.planes[quant::kCodes]));
  }
}

TEST_CASE("what was enqueued before a failure never runs, what was submitted is waited for") {
  base::Account account(1 << 20);
  base::HeapArena arena(account);
  std::atomic<int> ran{0};
  QueuedOps::Options options;
  options.max_delay_us = 2000;
  options.check_job = [&](const ops::ExpertJob&) { ++ran; };
  QueuedOps queue(std::make_unique<ops::cpu::CpuOps>(arena, ops::cpu::select_kernels("portable"), 1,
                                                     ops::Precision::float32),
                  options);
  queue.reserve({});
  engine::Pipeline pipeline(queue, std::make_shared<base::Bell>());
  const ops::ExpertJob job;
  pipeline.enqueue().experts({&job, 1}, {}, nullptr);
  pipeline.submit();
  pipeline.enqueue().experts({&job, 1}, {}, nullptr);
  pipeline.drain();
  CHECK(ran == 1);
  CHECK_FALSE(pipeline.dirty());
  pipeline.enqueue().experts({&job, 1}, {}, nullptr);
  pipeline.finish();
  CHECK(ran == 2);
}

TEST_CASE("a read that fails at any place is an IoError, and the repeated step has the same bits") {
  int64_t n_reads;
  {
    TinyModel model({4, 1});
    run(model);
    n_reads = model.file().reads();
  }
  REQUIRE(n_reads > 100);
  for (const bool queues : {false, true})
    for (int64_t at = 0; at < n_reads; at += (queues ? 29 : 7) * kSparse) {
      TinyModel model({4,
                       1,
                       {.fail_from = at, .fail_count = 1},
                       queues ? queued(1, 100) : TinyModel::MakeOps()});
      const auto session = model.session();
      Logits all;
      int failures = 0;
      const auto step = [&](std::vector<uint32_t> tokens) {
        for (;;) {
          const uint32_t position = session->position();
          try {
            const Logits logits = model.step(*session, tokens);
            all.insert(all.end(), logits.begin(), logits.end());
            return;
          } catch (const IoError&) {
            ++failures;
            REQUIRE(session->position() == position);
            REQUIRE(store::ExpertStoreTest::n_pinned(model.engine().store()) == 0);
          }
        }
      };
      step(prompt(20));
      for (uint32_t token : {3u, 50u, 7u}) step({token});
      CAPTURE(at);
      CHECK(failures <= 1);
      CHECK(same_bits(all, expected()));
      CHECK(model.violations == 0);
      store::ExpertStoreTest::assert_invariants(model.engine().store());
    }
}

TEST_CASE("an interrupt between the tasks of a stage leaves nothing half done behind") {
  struct Interrupt {};
  const auto first_step = [](int interrupt_at) {
    TinyModel model({4, 1});  // one thread: nobody does what the interrupted one leaves
    int polls = 0;
    model.engine().set_poll([&] {  // asked again at once: the pool waits 50 ms between two polls
      std::this_thread::sleep_for(std::chrono::milliseconds(51));
      if (++polls == interrupt_at) throw Interrupt();
    });
    const auto session = model.session();
    bool interrupted = false;
    try {
      if (interrupt_at > 0) model.step(*session, prompt(2));
    } catch (const Interrupt&) {
      interrupted = true;
    }
    CHECK(interrupted == (interrupt_at > 0));
    model.engine().set_poll(nullptr);
    return model.step(*session, prompt(2));
  };
  const Logits undisturbed = first_step(0);
  for (int at = 1; at <= 14; ++at) {  // past the first attention's rotary table
    CAPTURE(at);
    CHECK(same_bits(first_step(at), undisturbed));
  }
}

TEST_CASE("an interrupt at any stage leaves the session as it was") {
  int n_stages = 0;
  {
    int countdown = 1 << 30;
    TinyModel model({4, 1, {}, [&](std::unique_ptr<ops::Ops> cpu, TinyModel&) {
                       return std::make_unique<ThrowingOps>(std::move(cpu), &countdown);
                     }});
    run(model);
    n_stages = (1 << 30) - countdown;
  }
  REQUIRE(n_stages > 100);
  for (int at = 0; at < n_stages + 10; at += int(kSparse)) {
    int countdown = at, interrupts = 0;
    TinyModel model({4, 1, {}, [&](std::unique_ptr<ops::Ops> cpu, TinyModel&) {
                       return std::make_unique<ThrowingOps>(std::move(cpu), &countdown);
                     }});
    const auto session = model.session();
    Logits all;
    const auto step = [&](std::vector<uint32_t> tokens) {
      Logits logits;
      try {
        logits = model.step(*session, tokens);
      } catch (const ThrowingOps::Thrown&) {
        ++interrupts;
        REQUIRE(store::ExpertStoreTest::n_pinned(model.engine().store()) == 0);
        logits = model.step(*session, tokens);
      }
      all.insert(all.end(), logits.begin(), logits.end());
    };
    step(prompt(20));
    for (uint32_t token : {3u, 50u, 7u}) step({token});
    CAPTURE(at);
    // How many expert stages there are depends on which reads arrive together.
    CHECK(interrupts == (countdown < 0 ? 1 : 0));
    CHECK(same_bits(all, expected()));
  }
}
