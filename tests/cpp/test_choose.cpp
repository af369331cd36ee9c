// The choice of experts: the CPU's router, and what overrides make of its logits, against the
// formula.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
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

}  // namespace

TEST_CASE("experts of the highest logits are chosen and weighed by the softmax") {
  const std::vector<float> gate = noise(kExperts * kModel, 1), x = noise(kRows * kModel, 2);
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  ops::Router router;
  router.n_experts = kExperts;
  router.gate.weight =
      quant::contiguous({kExperts, kModel}, reinterpret_cast<const std::byte*>(gate.data()));
  router.top_k = kTopK;
  for (const bool normalise : {false, true}) {
    router.normalise = normalise;
    ops::Workload work;
    work.rows = kRows;
    work.moes.push_back({&router, {}});
    ops::cpu::CpuOps cpu(arena, *ops::cpu::kernels_portable(), 2, ops::Precision::float32);
    cpu.reserve(work);
    std::vector<uint32_t> experts(kRows * kTopK);
    std::vector<float> weights(kRows * kTopK), logits(kRows * kExperts);
    cpu.route(router, {x.data(), kRows}, {experts.data(), weights.data(), logits.data()});
    for (uint32_t row = 0; row < kRows; ++row) {
      const float* own = logits.data() + row * kExperts;
      check_row(own, normalise, experts.data() + row * kTopK, weights.data() + row * kTopK);
      std::vector<uint32_t> ids = all_experts();
      ops::choose(own, kTopK, ids);
      std::vector<double> scores(kExperts);
      ops::score(own, normalise ? std::span(ids).first(kTopK) : std::span(ids), scores.data());
      std::vector<float> weighed(kTopK);
      ops::weigh(scores.data(), normalise, std::span(ids).first(kTopK), weighed.data());
      check_row(own, normalise, ids.data(), weighed.data());
    }
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
  ops::score(logits.data(), forced, scores.data());
  float weights[2];
  ops::weigh(scores.data(), true, forced, weights);
  CHECK(weights[0] == doctest::Approx(1 / (1 + std::exp(-1.0))));
  CHECK(weights[1] == doctest::Approx(1 / (1 + std::exp(1.0))));
}
