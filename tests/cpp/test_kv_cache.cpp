// A session's KV cache in extents: what is booked when, what is shared, and that a step which finds
// no room for its cache leaves its sessions as they were.
#include <doctest/doctest.h>

#include <map>

#include "engine/snapshot_bytes.h"
#include "engine_fixture.h"

using namespace moeflux;

namespace {

constexpr uint32_t kContext = 600;                          // two extents and one of 96 positions
constexpr uint64_t kPosition = 3 * 2 * 32 * sizeof(float);  // 3 layers: keys and values, 32 numbers

std::vector<uint32_t> tokens(uint32_t n, uint32_t from = 0) {
  std::vector<uint32_t> out;
  for (uint32_t i = from; i < from + n; ++i) out.push_back((7 * i + i / 5) % TinyModel::kVocab);
  return out;
}

struct Fixture {
  explicit Fixture(TinyModel::Options options = {}) {
    options.context = kContext;
    options.make_arena = [&](base::Account& account) {
      return arena = std::make_shared<TrackingArena>(account, 4096);
    };
    model.emplace(options);
  }
  // What the account has beside slots, which come and go with use.
  uint64_t held() {
    const engine::Stats stats = model->engine().stats();
    return stats.live_bytes - stats.slots * stats.slot_bytes;
  }
  std::shared_ptr<TrackingArena> arena;
  std::optional<TinyModel> model;
};

}  // namespace

TEST_CASE("a cache takes the extents that hold its positions, and its table leads to them") {
  Fixture fixture;
  const auto session = fixture.model->session();
  const engine::SessionLayout& layout = session->layout();
  const uint64_t empty = fixture.held();
  CHECK(layout.extent() == ops::kCacheExtent);
  for (const auto& [positions, blocks] : {std::pair(0u, 0u),
                                          {1u, 16u},
                                          {256u, 16u},
                                          {257u, 32u},
                                          {512u, 32u},
                                          {513u, 38u},
                                          {600u, 38u}}) {
    CAPTURE(positions);
    const uint64_t nbytes = blocks * ops::kCacheBlock * kPosition;  // whole pages: it divides them
    CHECK(session->growth_bytes(positions) == nbytes);
    CHECK(layout.bytes(positions) - layout.bytes(0) == nbytes);
    session->grow(positions);
    CHECK(fixture.held() - empty == nbytes);
    CHECK(session->growth_bytes(positions) == 0);
    std::map<const std::byte*, uint64_t> planes;
    const engine::CacheLayout& cache = layout.caches().front();
    for (uint32_t layer = 0; layer < TinyModel::kLayers; layer += 2)
      for (uint32_t i = 0; i < cache.n_extents(positions); ++i) {
        const ops::CacheExtent extent = session->segment(layer, true).cache[i];
        const uint64_t plane = cache.n_blocks(i) * layout.layers()[layer].block_bytes;
        for (const std::byte* at : {extent.keys, extent.values}) {
          CHECK(fixture.arena->find(at, plane).block != nullptr);
          CHECK(planes.emplace(at, plane).second);
        }
      }
    const std::byte* end = nullptr;
    for (const auto& [at, plane] : planes) {
      CHECK(at >= end);  // behind the one before
      end = at + plane;
    }
    session->trim();
    CHECK(fixture.held() == empty);
  }
}

TEST_CASE("a step takes what it needs, reset gives it back") {
  Fixture fixture;
  const auto session = fixture.model->session();
  const uint64_t empty = fixture.held();
  for (uint32_t position = 0; position < kContext;) {
    const uint32_t n = std::min(kContext - position, 100u);
    fixture.model->step(*session, tokens(n, position));
    position += n;
    CHECK(fixture.held() - empty == session->layout().bytes(position) - session->layout().bytes(0));
  }
  session->reset();
  CHECK(fixture.held() == empty);
}

TEST_CASE("full extents are shared with snapshots, and freed with their last owner") {
  for (const uint32_t at : {255u, 256u, 257u, 300u, 512u, 530u, kContext}) {
    CAPTURE(at);
    Fixture fixture;
    TinyModel& model = *fixture.model;
    auto session = model.session();
    const uint64_t empty = fixture.held();
    const uint64_t one = session->layout().bytes(0);
    model.step(*session, tokens(at));
    const uint64_t before = fixture.held();
    auto snapshot = model.engine().save(*session);
    const uint64_t tail = base::round_up(at % 256, ops::kCacheBlock) * kPosition;
    CHECK(fixture.held() - before == snapshot->nbytes());
    CHECK(snapshot->nbytes() - snapshot->states.nbytes() == tail);

    // Two ways on from the snapshot, each as if the other were not.
    const auto other = model.session();
    model.engine().restore(*other, *snapshot);
    CHECK(other->position() == at);
    if (at < kContext) {
      const uint32_t more = std::min(kContext - at, 40u);
      const Logits first = model.step(*session, tokens(more, at));
      model.step(*other, tokens(more, 2 * at + 1));
      model.engine().restore(*session, *snapshot);
      CHECK(same_bits(model.step(*session, tokens(more, at)), first));
      model.engine().restore(*other, *snapshot);
      CHECK(same_bits(model.step(*other, tokens(more, at)), first));
    }
    session.reset();
    other->reset();
    const uint64_t full = at / 256 * 256 * kPosition;  // the snapshot's now
    CHECK(fixture.held() == empty + snapshot->nbytes() + full);
    snapshot.reset();
    CHECK(fixture.held() == empty);
    CHECK(one == other->layout().bytes(0));
  }
}

TEST_CASE("who goes back writes into no extent that a snapshot shares") {
  Fixture fixture;
  TinyModel& model = *fixture.model;
  const auto session = model.session(), other = model.session();
  model.step(*session, tokens(300));
  const auto early = model.engine().save(*session);
  model.step(*session, tokens(230, 300));
  const auto late = model.engine().save(*session);  // has the whole extent of position 300
  const Logits expected = model.step(*session, tokens(5, 530));
  model.engine().restore(*session, *early);
  model.step(*session, tokens(40, 900));
  model.engine().restore(*other, *late);
  CHECK(same_bits(model.step(*other, tokens(5, 530)), expected));
}

TEST_CASE("a fork takes a state and an extent at most, goes its own way and leaves nothing") {
  for (const uint32_t at : {1u, 255u, 256u, 257u, 512u, 530u}) {
    CAPTURE(at);
    Fixture fixture;
    TinyModel& model = *fixture.model;
    const auto session = model.session();
    model.step(*session, tokens(at));
    const uint64_t before = fixture.held();
    std::vector<std::shared_ptr<engine::Session>> forks;
    for (int i = 0; i < 200; ++i) forks.push_back(model.engine().fork(*session));
    const engine::SessionLayout& layout = session->layout();
    const engine::CacheLayout& cache = layout.caches().front();
    const uint64_t tail = at % 256 ? cache.extent_bytes(cache.n_blocks(at / 256)) : 0;
    CHECK(fixture.held() - before == 200 * (layout.bytes(0) + tail));
    model.step(*forks[0], tokens(20, 2 * at + 1));
    const Logits expected = model.step(*session, tokens(20, at));
    session->reset();
    CHECK(same_bits(model.step(*forks[1], tokens(20, at)), expected));
    forks.erase(forks.begin() + 3, forks.end());
    CHECK(same_bits(model.step(*forks[2], tokens(20, at)), expected));
    forks.clear();
    model.step(*session, tokens(at));
    CHECK(fixture.held() == before);
  }
}

TEST_CASE("the bytes of a snapshot, in pieces of any size, make another with the same bits") {
  Fixture fixture;
  TinyModel& model = *fixture.model;
  engine::Engine& engine = model.engine();
  const uint64_t empty = fixture.held();
  for (const uint32_t at : {0u, 1u, 256u, 300u, 512u, 599u}) {
    CAPTURE(at);
    const auto session = model.session();
    if (at) model.step(*session, tokens(at));
    const auto snapshot = engine.save(*session);
    const engine::SnapshotBytes from(engine.layout(), *snapshot);
    CHECK(from.size() == engine.layout().saved_bytes(at));
    const uint64_t before = fixture.held();
    const uint64_t booked = engine::Session::blank_bytes(engine.layout(), at, *fixture.arena);
    const auto blank = engine.blank_snapshot(at);
    CHECK(fixture.held() - before == booked);
    const engine::SnapshotBytes to(engine.layout(), *blank);
    CHECK(to.size() == from.size());
    std::vector<std::byte> piece(1000);
    for (uint64_t begin = 0; begin < from.size(); begin += piece.size()) {
      piece.resize(std::min<uint64_t>(begin % 7919 + 1, from.size() - begin));
      from.read(begin, piece);
      to.write(begin, piece);
    }
    CHECK_THROWS_AS(from.read(from.size(), std::span(piece.data(), 1)), SessionError);
    CHECK_THROWS_AS(to.write(UINT64_MAX, std::span<const std::byte>(piece.data(), 1)),
                    SessionError);
    const auto other = model.session();
    engine.restore(*other, *blank);
    CHECK(same_bits(model.step(*other, tokens(1, at)), model.step(*session, tokens(1, at))));
  }
  CHECK(fixture.held() == empty);
  CHECK_THROWS_WITH_AS(engine.blank_snapshot(kContext + 1),
                       doctest::Contains("expected at most 600 tokens"), SessionError);
  fixture.arena->refuse_after(1);
  CHECK_THROWS_AS(engine.blank_snapshot(kContext), MemoryBudgetError);
  fixture.arena->refuse(false);
  CHECK(fixture.held() == empty);
}

TEST_CASE("a batch that finds no memory for one of its caches leaves all as they were") {
  Fixture undisturbed;
  const auto twin = undisturbed.model->session();
  undisturbed.model->step(*twin, tokens(250));
  const Logits expected = undisturbed.model->step(*twin, tokens(30, 250));

  Fixture fixture;
  TinyModel& model = *fixture.model;
  const auto one = model.session(), other = model.session();
  for (const auto& session : {one, other}) model.step(*session, tokens(250));
  const uint64_t before = fixture.held();
  const auto work = tokens(30, 250);
  Logits found[2];
  std::vector<engine::Request> requests;
  for (int i = 0; i < 2; ++i) {
    found[i].resize(work.size() * TinyModel::kVocab);
    requests.push_back({i ? other.get() : one.get(), work, true, TinyModel::writer(found[i]), {}});
  }
  for (const size_t given : {0, 1}) {  // of the two extents that the batch needs
    fixture.arena->refuse_after(given);
    CHECK_THROWS_WITH_AS(model.engine().step(requests), doctest::Contains("the KV cache"),
                         MemoryBudgetError);
    CHECK(one->position() == 250);
    CHECK(fixture.held() == before);
  }
  fixture.arena->refuse(false);
  model.engine().step(requests);
  for (const Logits& logits : found) CHECK(same_bits(logits, expected));
}

TEST_CASE("a step that fails gives back what it has not filled, and the repeat is exact") {
  Fixture undisturbed;
  const auto twin = undisturbed.model->session();
  const Logits expected = undisturbed.model->step(*twin, tokens(300));

  Fixture fixture({3, 1, {.fail_from = 150, .fail_count = 1}});
  const auto session = fixture.model->session();
  const uint64_t empty = fixture.held();
  CHECK_THROWS_AS(fixture.model->step(*session, tokens(300)), IoError);
  CHECK(fixture.held() == empty);
  CHECK(same_bits(fixture.model->step(*session, tokens(300)), expected));
}

TEST_CASE("a growing cache takes slots back down to their minimum, then names what would do") {
  uint64_t named = 0;
  const auto did = [&](uint64_t budget, bool load_alone) {
    try {
      Fixture fixture({.budget = budget});
      if (load_alone) return true;
      TinyModel& model = *fixture.model;
      std::vector<std::shared_ptr<engine::Session>> sessions;
      for (int i = 0; i < 4; ++i) sessions.push_back(model.session());
      model.step(*sessions[0], tokens(200));
      const uint32_t slots = model.engine().stats().slots;
      const auto snapshot = model.engine().save(*sessions[0]);
      for (const auto& session : sessions) model.step(*session, tokens(kContext - 200));
      const engine::Stats stats = model.engine().stats();
      CHECK(stats.slots < slots);
      CHECK(stats.peak_bytes <= budget);
      CHECK(model.engine().free_bytes() ==
            budget - stats.live_bytes + (stats.slots - TinyModel::kTopK) * stats.slot_bytes);
      return true;
    } catch (const MemoryBudgetError& error) {
      const std::string text = error.what();
      const size_t at = text.find("memory=") + 7, least = text.find("at least ");
      named = std::stoull(text.substr(least == std::string::npos ? at : least + 9));
      return false;
    }
  };
  uint64_t budget = Fixture().held();  // about what a load takes
  for (int refusals = 0; !did(budget, true); budget = named) REQUIRE(++refusals < 500);
  int refusals = 0;
  for (; !did(budget, false); ++refusals) {
    const uint64_t would_do = named;
    REQUIRE((would_do > budget && refusals < 9));
    CHECK_FALSE(did(would_do - 1, false));
    CHECK(named == would_do);
    budget = would_do;
  }
  CHECK(refusals > 0);
}

TEST_CASE("windows keep what rows to come see, and a step that fails all that was there") {
  constexpr uint32_t kWindow = 20, kLong = 1200;
  const TinyModel::Options options{.context = kLong, .rows = 64, .window = kWindow};
  TinyModel whole(options);
  const auto twin = whole.session();
  const auto beside_slots = [](TinyModel& model) {
    const engine::Stats stats = model.engine().stats();
    return stats.live_bytes - stats.slots * stats.slot_bytes;
  };
  const uint64_t empty = beside_slots(whole);
  const Logits expected = whole.step(*twin, tokens(kLong));
  const auto rows = [&](uint32_t begin, uint32_t n) {
    const auto at = expected.begin() + uint64_t{begin} * TinyModel::kVocab;
    return Logits(at, at + uint64_t{n} * TinyModel::kVocab);
  };
  const engine::SessionLayout& layout = twin->layout();
  REQUIRE(layout.caches().size() == 2);
  const engine::CacheLayout &all = layout.caches()[0], &cache = layout.caches()[1];
  CHECK(cache.window() == kWindow);
  const uint64_t held = beside_slots(whole) - empty;
  const uint64_t at_end = cache.n_extents(kLong) - cache.first_held(kLong);
  CHECK(held == all.bytes(kLong) + at_end * cache.extent_bytes(cache.n_blocks(0)));

  // A failure after any pass leaves what the same call needs.
  for (const uint32_t at : {1u, 256u, 600u})
    for (const uint32_t fails : {0u, 300u, kLong - at - 1}) {
      CAPTURE(at);
      CAPTURE(fails);
      TinyModel model(options);
      const auto session = model.session();
      model.step(*session, tokens(at));
      const uint64_t before = beside_slots(model);
      const auto rest = tokens(kLong - at, at);
      const engine::Request request{session.get(),
                                    rest,
                                    true,
                                    [&](uint32_t token, const float*) {
                                      if (token == fails) throw IoError("[test] as asked for");
                                    },
                                    {}};
      CHECK_THROWS_AS(model.engine().step({&request, 1}), IoError);
      CHECK(session->position() == at);
      CHECK(beside_slots(model) == before);
      CHECK(same_bits(model.step(*session, rest), rows(at, kLong - at)));
    }
}

TEST_CASE("an extent that a step fills again holds nothing that its rows see, or that is kept") {
  base::Account account(1 << 30);
  base::HeapArena arena(account);
  const uint64_t block = 64;
  for (const uint32_t window : {1u, 2u, 128u, 192u, 193u, 256u, 257u, 1000u, 4096u})
    for (const uint32_t chunk : {64u, 100u, 512u}) {
      CAPTURE(window);
      CAPTURE(chunk);
      const engine::CacheLayout layout(window, 1 << 20, chunk, std::span(&block, 1), arena);
      const uint64_t turn = uint64_t{layout.turn()} * layout.extent();
      for (uint32_t from = 0; from < 3000; ++from) {
        // The last row of a chunk at `from` writes, its first one reads.
        const uint32_t last = from + chunk - 1, sees = from + 1 - std::min(from + 1, window);
        if (last >= turn) REQUIRE(last - turn < sees);
        const uint32_t there = layout.n_extents(from) - layout.first_held(from);
        REQUIRE(there <= layout.turn());
        REQUIRE(there * layout.extent_bytes(16) <= layout.bytes(from));
        REQUIRE(layout.first_seen(from) <= from / layout.extent());
        // As far back as it says, and no further.
        const uint32_t least = layout.least_positions(layout.first_held(from));
        REQUIRE((least == 0 || least + engine::kTakenBack <= from));
        REQUIRE(layout.first_seen(least) >= layout.first_held(from));
        if (least) REQUIRE(layout.first_seen(least - 1) < layout.first_held(from));
      }
    }
}
