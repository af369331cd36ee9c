// Several sessions in one step, and overrides of the routing.
#include <doctest/doctest.h>

#include "engine_fixture.h"
#include "sparse.h"

using namespace moeflux;

namespace {

// Sessions that hold three tokens each, and what a step appends to them.
struct Batch {
  explicit Batch(TinyModel& model) : work{prompt(1, 9), prompt(20), prompt(6, 2), prompt(1, 4)} {
    for (const auto& tokens : work) {
      sessions.push_back(model.session());
      model.step(*sessions.back(), {1, 2, 3});
      found.emplace_back(tokens.size() * TinyModel::kVocab, NAN);
    }
    for (size_t i = 0; i < work.size(); ++i)
      requests.push_back({sessions[i].get(), work[i], true, TinyModel::writer(found[i]), {}});
  }
  void check_positions(bool stepped) const {
    for (size_t i = 0; i < work.size(); ++i)
      CHECK(sessions[i]->position() == 3 + (stepped ? work[i].size() : 0));
  }

  const std::vector<std::vector<uint32_t>> work;
  std::vector<std::shared_ptr<engine::Session>> sessions;
  std::vector<Logits> found;
  std::vector<engine::Request> requests;
};

std::vector<Logits> alone() {
  TinyModel model({});
  Batch batch(model);
  for (const engine::Request& request : batch.requests) model.engine().step({&request, 1});
  return batch.found;
}

void check_bits(const std::vector<Logits>& found, const std::vector<Logits>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) CHECK(same_bits(found[i], expected[i]));
}

}  // namespace

TEST_CASE("several sessions in a pass have the bits of each alone, also when they queue") {
  const std::vector<Logits> expected = alone();
  for (uint32_t slots : {3u, 48u})
    for (const bool queues : {false, true}) {
      TinyModel model({slots, 2, {}, queues ? queued(slots, 100) : TinyModel::MakeOps()});
      Batch batch(model);
      model.engine().step(batch.requests);
      check_bits(batch.found, expected);
      batch.check_positions(true);
    }
}

TEST_CASE("a session twice in a batch is refused and nothing changes") {
  TinyModel model({});
  Batch batch(model);
  batch.requests.push_back(batch.requests.front());
  CHECK_THROWS_AS(model.engine().step(batch.requests), SessionError);
  batch.check_positions(false);
}

TEST_CASE("a read that fails anywhere leaves every session of a batch, the repeat is undisturbed") {
  const std::vector<Logits> expected = alone();
  int64_t before = 0, n_reads = 0;
  {
    TinyModel model({4, 1});
    Batch batch(model);
    before = model.file().reads();
    model.engine().step(batch.requests);
    n_reads = model.file().reads();
  }
  REQUIRE(n_reads - before > 200);
  for (const bool queues : {false, true})
    for (int64_t at = before; at < n_reads; at += (queues ? 61 : 17) * kSparse) {
      TinyModel model({4,
                       1,
                       {.fail_from = at, .fail_count = 1},
                       queues ? queued(2, 50) : TinyModel::MakeOps()});
      CAPTURE(at);
      Batch batch(model);
      try {
        model.engine().step(batch.requests);
      } catch (const IoError&) {
        batch.check_positions(false);
        CHECK(store::ExpertStoreTest::n_pinned(model.engine().store()) == 0);
        model.engine().step(batch.requests);
      }
      check_bits(batch.found, expected);
      batch.check_positions(true);
      CHECK(model.violations == 0);
    }
}

TEST_CASE(
    "an override of the routing and more experts a token have the same bits when they queue") {
  const auto logits = [](TinyModel& model, uint32_t top_k) {
    engine::RoutingOverride routing;
    routing.top_k = top_k;
    routing.masked.assign(TinyModel::kLayers * TinyModel::kExperts, 0);
    for (uint32_t layer = 0; layer < TinyModel::kLayers; ++layer)
      if (layer != 2) routing.masked[layer * TinyModel::kExperts + 4] = 1;
    const auto override = model.engine().new_override(std::move(routing));
    const auto session = model.session();
    const auto tokens = prompt(20);
    Logits out(tokens.size() * TinyModel::kVocab);
    engine::Request request{session.get(), tokens, true, TinyModel::writer(out), {}};
    request.routing = override.get();
    model.engine().step({&request, 1});
    return out;
  };
  for (uint32_t top_k : {0u, 1u, 10u}) {
    TinyModel plain({});
    const Logits found = logits(plain, top_k);
    const auto session = plain.session();
    CHECK_FALSE(same_bits(plain.step(*session, prompt(20)), found));
    for (uint32_t slots : {3u, 48u}) {
      TinyModel model({slots, 2, {}, queued(slots, 50)});
      CHECK(same_bits(logits(model, top_k), found));
    }
  }
}
