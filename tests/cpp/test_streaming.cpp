// How a layer's experts are read: ahead of what computes, in the order of demand, each once.
#include <doctest/doctest.h>

#include <set>

#include "decorated_ops.h"
#include "expert_store_test.h"
#include "tiny_model.h"

using namespace moeflux;

namespace {

// Looks at the store each time that experts compute.
class WatchingOps final : public DecoratedOps {
 public:
  struct Look {
    uint64_t misses = 0;    // experts that were asked of the disk so far
    uint64_t computed = 0;  // experts that were computed before
    int64_t pinned = 0;
    int layer = 0;
  };
  WatchingOps(std::unique_ptr<ops::Ops> inner, TinyModel& model, std::vector<Look>* looks)
      : DecoratedOps(std::move(inner)), model_(model), looks_(looks) {}

  void route(const ops::Router& w, const ops::Rows& normed, const ops::Routing& out) override {
    ++layer_;
    DecoratedOps::route(w, normed, out);
  }
  void experts(std::span<const ops::ExpertJob> jobs, const ops::Rows& normed,
               float* expert_out) override {
    const store::ExpertStore& store = model_.engine().store();
    looks_->push_back(
        {store.stats().misses, computed_, store::ExpertStoreTest::n_pinned(store), layer_});
    computed_ += jobs.size();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // reads arrive meanwhile
    DecoratedOps::experts(jobs, normed, expert_out);
  }

 protected:
  void run(Stage stage) override { stage(); }

 private:
  TinyModel& model_;
  std::vector<Look>* looks_;
  uint64_t computed_ = 0;
  int layer_ = 0;
};

std::vector<uint32_t> chunk_of_tokens() {
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < TinyModel::kChunk; ++i) tokens.push_back(11 * i + 3);
  return tokens;
}

}  // namespace

TEST_CASE("reads of a chunk run ahead of compute by two experts or more") {
  for (const int delay_us : {0, 200}) {
    std::vector<WatchingOps::Look> looks;
    TinyModel model(
        {6, 1, {.delay_us = delay_us}, [&](std::unique_ptr<ops::Ops> cpu, TinyModel& self) {
           return std::make_unique<WatchingOps>(std::move(cpu), self, &looks);
         }});
    const auto session = model.session();
    model.step(*session, chunk_of_tokens());
    REQUIRE(model.engine().stats().store.misses > 6 * TinyModel::kMoeLayers);
    size_t ahead = 0;
    for (size_t i = 0; i + 1 < looks.size(); ++i) {
      // Behind the last miss of a layer nothing is left to read ahead.
      if (looks[i + 1].layer != looks[i].layer || looks[i + 1].misses == looks[i].misses) continue;
      // Of six slots a half may compute: experts of the others are read, or ready, meanwhile.
      CHECK(looks[i].misses - looks[i].computed >= 6);
      CHECK(looks[i].pinned == 6);
      CHECK(looks[i + 1].computed - looks[i].computed <= 3);
      ++ahead;
    }
    CHECK(ahead >= TinyModel::kMoeLayers);
    CHECK(looks.front().pinned == 6);
  }
}

TEST_CASE("sleeping for reads is waiting and no computing, also in a step that fails") {
  constexpr int kDelayUs = 2000;
  std::vector<WatchingOps::Look> looks;
  TinyModel model({48,
                   1,
                   {.delay_us = kDelayUs, .fail_from = 200, .fail_count = 1},
                   [&](std::unique_ptr<ops::Ops> cpu, TinyModel& self) {
                     return std::make_unique<WatchingOps>(std::move(cpu), self, &looks);
                   },
                   64 << 20,
                   1});
  const auto session = model.session();
  CHECK_THROWS_AS(model.step(*session, chunk_of_tokens()), IoError);
  model.step(*session, chunk_of_tokens());
  const engine::Stats stats = model.engine().stats();
  // The one reader sleeps in every read, the engine in every call of experts().
  CHECK(stats.pipeline.read_wait_ns >= uint64_t(model.file().reads()) * kDelayUs * 1000 * 3 / 4);
  CHECK(stats.compute_ns >= looks.size() * 2'000'000);
}

TEST_CASE("a session that waits for slots takes nothing from the time of computing") {
  TinyModel model({.faults = {.gated = true}});
  const auto session = model.session();
  base::Account& account = model.arena().account();
  const base::Booking rest(account, account.free_bytes() - 13 * model.engine().stats().slot_bytes,
                           "the rest");
  model.engine().set_poll([&] {
    if (model.file().reads() > 0) throw std::runtime_error("interrupt");
  });
  CHECK_THROWS_WITH(model.step(*session, chunk_of_tokens()), "interrupt");
  model.engine().set_poll({});
  const uint64_t computed = model.engine().stats().compute_ns;
  CHECK(computed > 0);
  const base::Booking free(account, account.free_bytes(), "what is not in slots");
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));  // more than a step takes
    model.file().allow(1 << 20);
  });
  const auto other = model.session();  // in the place of slots, when they have been read
  later.join();
  model.step(*other, {1});
  CHECK(model.engine().stats().compute_ns >= computed);
}

TEST_CASE("guesses stay wanted while the experts of their layer are read") {
  TinyModel model(
      {.max_slots = 12, .faults = {.delay_us = 1000}, .read_threads = 1, .read_ahead = true});
  const auto session = model.session();
  for (uint32_t token = 1; token < 40; ++token) model.step(*session, {token});
  CHECK(model.engine().stats().store.guesses > 8);
}

TEST_CASE("experts of a cold chunk are read in the order of demand, each once") {
  TinyModel model({48, 1, {.log = true}, {}, 64 << 20, 1});
  const auto session = model.session();
  model.step(*session, chunk_of_tokens());
  std::vector<std::vector<uint32_t>> order(TinyModel::kMoeLayers);
  std::set<std::pair<uint32_t, uint32_t>> seen;
  for (uint64_t offset : model.file().offsets())
    for (uint32_t layer = 0; layer < TinyModel::kMoeLayers; ++layer) {
      const store::Part& first = model.experts()[layer].parts.front();
      for (uint32_t expert = 0; expert < TinyModel::kExperts; ++expert)
        if (first.offset[expert] / 512 * 512 == offset && seen.insert({layer, expert}).second)
          order[layer].push_back(expert);
    }
  for (const auto& experts : order) {
    CHECK(experts.size() > 3);
    CHECK(std::is_sorted(experts.begin(), experts.end()));
  }
  CHECK(seen.size() == model.engine().stats().store.misses);
}

TEST_CASE("tables of experts are booked, and a session gives back what it took") {
  TinyModel model({});
  base::Account& account = model.arena().account();
  const uint64_t before = account.live_bytes();
  auto session = model.session();
  CHECK(account.live_bytes() > before);
  session.reset();
  CHECK(account.live_bytes() == before);
  const uint64_t tables = store::ExpertStore::fixed_bytes(model.experts(), 4, model.arena()) -
                          4 * base::kStackBytes - model.arena().booked_bytes(4 * io::kBounceBytes);
  // An expert of nine parts: 108 bytes of ranges twice (on disk, and as they are read), what a key
  // and a slot take, and two words in a queue for each piece.
  const uint64_t expert = 2 * 9 * 12 + 20 + 100 + 9 * 16;
  CHECK(tables >= TinyModel::kMoeLayers * TinyModel::kExperts * expert);
}
