// The choice of experts: the CPU's router, and what overrides make of its logits, against the
// formula.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "ops/choose.h"
#include "ops/cpu/cpu_ops.h"

using namespace moeflux;

namespace {

constexpr uint32_t kExperts = 24, kTopK = 5, kModel = 32, kRows = 3;

std::vector<float> noise(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(n);
  for (float& value : out) value = normal(random);
  return out;
}

std::vector<uint32_t> all_experts() {
  std::vector<uint32_t> ids(kExperts);
  for (uint32_t i = 0; i < kExperts; ++i) ids[i] = i;
  return ids;
}

void check_row(const float* logits, bool normalise, const uint32_t* experts, const float* weights) {
  double all = 0, chosen = 0, lowest = INFINITY;
  for (uint32_t i = 0; i < kExperts; ++i) all += std::exp(double(logits[i]));
  for (uint32_t rank = 0; rank < kTopK; ++rank) {
    if (rank > 0) CHECK(experts[rank] > experts[rank - 1]);
    chosen += std::exp(double(logits[experts[rank]]));
    lowest = std::min(lowest, double(logits[experts[rank]]));
  }
  uint32_t not_below = 0;
  for (uint32_t i = 0; i < kExperts; ++i) not_below += logits[i] >= lowest;
  CHECK(not_below == kTopK);
  for (uint32_t rank = 0; rank < kTopK; ++rank)
    CHECK(weights[rank] ==
          doctest::Approx(std::exp(double(logits[experts[rank]])) / (normalise ? chosen : all))
              .epsilon(1e-5));
}

struct Routed {  // what the CPU's router makes of kRows rows
  std::vector<uint32_t> experts = std::vector<uint32_t>(kRows * kTopK);
  std::vector<float> weights = std::vector<float>(kRows * kTopK),
                     logits = std::vector<float>(kRows * kExperts);

  explicit Routed(ops::Router router) {
    const std::vector<float> gate = noise(kExperts * kModel, 1), x = noise(kRows * kModel, 2);
    base::Account account(64 << 20);
    base::HeapArena arena(account);
    router.n_experts = kExperts, router.top_k = kTopK;
    router.gate.weight =
        quant::contiguous({kExperts, kModel}, reinterpret_cast<const std::byte*>(gate.data()));
    REQUIRE(router.fault() == "");
    ops::Workload work;
    work.rows = kRows;
    work.moes.push_back({&router, {}});
    ops::cpu::CpuOps cpu(arena, *ops::cpu::kernels_portable(), 2, ops::Precision::float32);
    cpu.reserve(work);
    cpu.route(router, {x.data(), kRows}, {experts.data(), weights.data(), logits.data()});
  }
};

}  // namespace

TEST_CASE("experts of the highest logits are chosen and weighed by the softmax") {
  for (const bool normalise : {false, true}) {
    ops::Router router{{}, kExperts, kTopK, normalise};
    const Routed found(router);
    for (uint32_t row = 0; row < kRows; ++row) {
      const float* own = found.logits.data() + row * kExperts;
      check_row(own, normalise, found.experts.data() + row * kTopK,
                found.weights.data() + row * kTopK);
      std::vector<uint32_t> ids = all_experts();
      ops::choose(own, kTopK, ids);
      std::vector<double> scores(kExperts);
      ops::score(router.score, own, normalise ? std::span(ids).first(kTopK) : std::span(ids),
                 scores.data());
      std::vector<float> weighed(kTopK);
      ops::weigh(router, scores.data(), std::span(ids).first(kTopK), weighed.data());
      check_row(own, normalise, ids.data(), weighed.data());
    }
  }
}

// The router of DeepSeek-V3 (transformers' DeepseekV3TopkRouter), in doubles.
TEST_CASE("sigmoid scores, a bias of the choice, groups, an epsilon and a factor") {
  const std::vector<float> bias = noise(kExperts, 5);
  for (const uint32_t n_groups : {1u, 2u, 4u, 12u}) {
    const uint32_t size = kExperts / n_groups, top_groups = (kTopK + size - 1) / size;
    ops::Router router;
    router.score = ops::Score::sigmoid, router.sum_eps = 0.25f, router.scale = 2.5f;
    router.selection_bias = bias.data();
    router.n_groups = n_groups, router.top_groups = top_groups;
    const Routed found(router);
    for (uint32_t row = 0; row < kRows; ++row) {
      std::vector<double> scores, ranks;
      for (uint32_t i = 0; i < kExperts; ++i) {
        scores.push_back(1 / (1 + std::exp(-double(found.logits[row * kExperts + i]))));
        ranks.push_back(scores[i] + bias[i]);
      }
      std::vector<std::pair<double, uint32_t>> groups;
      for (uint32_t g = 0; g < n_groups; ++g) {
        std::vector<double> own(&ranks[g * size], &ranks[g * size] + size);
        std::sort(own.rbegin(), own.rend());
        groups.emplace_back(own[0] + own[1], g);
      }
      std::sort(groups.rbegin(), groups.rend());
      std::vector<std::pair<double, uint32_t>> open;
      for (uint32_t i = 0; i < top_groups; ++i)
        for (uint32_t e = groups[i].second * size; e < (groups[i].second + 1) * size; ++e)
          open.emplace_back(ranks[e], e);
      std::sort(open.rbegin(), open.rend());
      std::vector<uint32_t> expected;
      double total = 0.25;
      for (uint32_t i = 0; i < kTopK; ++i) {
        expected.push_back(open[i].second);
        total += scores[open[i].second];
      }
      std::sort(expected.begin(), expected.end());
      for (uint32_t i = 0; i < kTopK; ++i) {
        CHECK(found.experts[row * kTopK + i] == expected[i]);
        CHECK(found.weights[row * kTopK + i] ==
              doctest::Approx(scores[expected[i]] / total * 2.5).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("a router that cannot choose says what is wrong") {
  ops::Router router{{}, 8, 3, true};
  CHECK(router.fault() == "");
  router.n_groups = 4, router.top_groups = 2;
  CHECK(router.fault() == "");
  router.top_groups = 1;
  CHECK(router.fault() == "a top_k of 1..2 out of 1 groups, found 3");
  router.top_groups = 5;
  CHECK(router.fault() == "a choice of 1..4 groups, found 5");
  for (const uint32_t n_groups : {0u, 3u, 8u, 16u}) {
    router.n_groups = n_groups;
    CHECK(router.fault().starts_with("groups of two experts or more"));
  }
}

TEST_CASE("of equal logits the lower expert is chosen, and a NaN last") {
  std::vector<float> logits(kExperts, 1.0f);
  logits[0] = NAN;
  logits[20] = 2.0f;
  std::vector<uint32_t> ids = all_experts();
  ops::choose(logits.data(), kTopK, ids);
  ids.resize(kTopK);
  CHECK(ids == std::vector<uint32_t>{1, 2, 3, 4, 20});
  for (uint32_t i = 1; i < kExperts - 2; ++i) logits[i] = NAN;
  ids = all_experts();
  ops::choose(logits.data(), kTopK, ids);
  ids.resize(kTopK);
  CHECK(ids == std::vector<uint32_t>{0, 1, 2, kExperts - 2, kExperts - 1});
}

TEST_CASE("forced experts keep their weights however improbable they are") {
  const std::vector<float> logits{500, 0, -1};
  const std::vector<uint32_t> forced{1, 2};
  std::vector<double> scores(3);
  ops::score(ops::Score::softmax, logits.data(), forced, scores.data());
  float weights[2];
  ops::weigh(ops::Router{{}, 3, 2, true}, scores.data(), forced, weights);
  CHECK(weights[0] == doctest::Approx(1 / (1 + std::exp(-1.0))));
  CHECK(weights[1] == doctest::Approx(1 / (1 + std::exp(1.0))));
}
