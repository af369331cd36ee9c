// The choice of experts: the CPU's router, and what overrides make of its logits, against the
// formula.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "engine/routing.h"
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

TEST_CASE("weights are multiplied by the factors of their experts") {
  const std::vector<float> factors = noise(kExperts, 9);
  ops::Router router{{}, kExperts, kTopK, true};
  const Routed plain(router);
  router.expert_scale = factors.data();
  const Routed scaled(router);
  CHECK(scaled.experts == plain.experts);
  for (uint32_t i = 0; i < kRows * kTopK; ++i)
    CHECK(scaled.weights[i] == plain.weights[i] * factors[plain.experts[i]]);
}

// The router of DeepSeek-V3 (transformers' DeepseekV3TopkRouter), in doubles, with experts that are
// not there.
struct DeepSeek {
  std::vector<float> bias = noise(kExperts, 5);
  ops::Router router;
  std::vector<uint32_t> experts;
  std::vector<double> weights;

  explicit DeepSeek(uint32_t n_groups) {
    const uint32_t size = kExperts / n_groups;
    router.n_experts = kExperts, router.top_k = kTopK;
    router.score = ops::Score::sigmoid, router.sum_eps = 0.25f, router.scale = 2.5f;
    router.selection_bias = bias.data();
    router.n_groups = n_groups, router.top_groups = (kTopK + size - 1) / size;
  }
  void choose(const float* logits, const std::vector<uint8_t>& masked) {
    const uint32_t size = kExperts / router.n_groups;
    std::vector<double> scores, ranks;
    for (uint32_t i = 0; i < kExperts; ++i) {
      scores.push_back(1 / (1 + std::exp(-double(logits[i]))));
      ranks.push_back(masked[i] ? -INFINITY : scores[i] + bias[i]);
    }
    std::vector<std::pair<double, uint32_t>> groups;
    for (uint32_t g = 0; g < router.n_groups; ++g) {
      std::vector<double> own(&ranks[g * size], &ranks[g * size] + size);
      std::sort(own.rbegin(), own.rend());
      groups.emplace_back(own[0] + own[1], g);
    }
    std::sort(groups.rbegin(), groups.rend());
    std::vector<std::pair<double, uint32_t>> open;
    for (uint32_t i = 0; i < router.top_groups; ++i)
      for (uint32_t e = groups[i].second * size; e < (groups[i].second + 1) * size; ++e)
        open.emplace_back(ranks[e], e);
    std::sort(open.rbegin(), open.rend());
    experts.clear();
    for (uint32_t i = 0; i < kTopK; ++i) experts.push_back(open[i].second);
    std::sort(experts.begin(), experts.end());
    weigh(scores);
  }
  void weigh(const std::vector<double>& scores) {
    double total = 0.25;
    for (const uint32_t expert : experts) total += scores[expert];
    weights.clear();
    for (const uint32_t expert : experts) weights.push_back(scores[expert] / total * 2.5);
  }
  void check(const uint32_t* found, const float* found_weights) const {
    for (uint32_t i = 0; i < kTopK; ++i) {
      CHECK(found[i] == experts[i]);
      CHECK(found_weights[i] == doctest::Approx(weights[i]).epsilon(1e-5));
    }
  }
};

TEST_CASE("sigmoid scores, a bias of the choice, groups, an epsilon and a factor") {
  for (const uint32_t n_groups : {1u, 2u, 4u, 12u}) {
    DeepSeek expected(n_groups);
    const Routed found(expected.router);
    for (uint32_t row = 0; row < kRows; ++row) {
      expected.choose(found.logits.data() + row * kExperts, std::vector<uint8_t>(kExperts));
      expected.check(found.experts.data() + row * kTopK, found.weights.data() + row * kTopK);
    }
  }
}

TEST_CASE("an override of a router with groups masks and forces experts as the formula does") {
  for (const uint32_t n_groups : {1u, 2u, 4u}) {
    DeepSeek expected(n_groups);
    const Routed routed(expected.router);
    for (uint32_t row = 0; row < kRows; ++row) {
      const float* logits = routed.logits.data() + row * kExperts;
      const auto own = std::span(routed.experts).subspan(row * kTopK, kTopK);
      const auto override_with = [&](const engine::RoutingOverride& o) {
        std::vector<uint32_t> experts(own.begin(), own.end());
        std::vector<float> weights(kTopK);
        engine::apply_override(o, expected.router, 0, 1, kExperts, 0, logits, experts.data(),
                               weights.data());
        expected.check(experts.data(), weights.data());
      };
      engine::RoutingOverride mask;  // of what the router would take
      mask.masked.resize(kExperts);
      mask.masked[own[1]] = 1;
      expected.choose(logits, mask.masked);
      override_with(mask);

      engine::RoutingOverride forced;  // of every group
      forced.n_forced = 1;
      forced.forced = {1, 7, 12, 13, 23};
      if (std::equal(own.begin(), own.end(), forced.forced.begin())) forced.forced[0] = 2;
      std::vector<double> scores;
      for (uint32_t i = 0; i < kExperts; ++i)
        scores.push_back(1 / (1 + std::exp(-double(logits[i]))));
      expected.experts.assign(forced.forced.begin(), forced.forced.end());
      expected.weigh(scores);
      override_with(forced);
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
