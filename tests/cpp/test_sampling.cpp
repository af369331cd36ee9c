// The loops over a vocabulary against the C library, and the sampler against sorts of everything. Whole
// vocabularies, penalties and draws are compared with numpy in tests/python/test_sampling.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "base/error.h"
#include "sampling/sampler.h"

using namespace moeflux;
using namespace moeflux::sampling;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> noise(size_t n, uint32_t seed, float step) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> out(n);
  for (float& value : out)
    value = step > 0 ? std::round(normal(random) / step) * step : normal(random);
  return out;
}

std::vector<uint32_t> by_size(std::span<const float> logits) {
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  return order;
}

// Ids that the filters keep, by a sort.
std::vector<uint32_t> kept_by_sort(std::span<const float> logits, const Filters& filters) {
  std::vector<uint32_t> order = by_size(logits);
  if (filters.top_k && filters.top_k < order.size()) order.resize(filters.top_k);
  const auto weight = [&](uint32_t id) {
    return std::exp((double(logits[id]) - logits[order[0]]) / filters.temperature);
  };
  double total = 0, sum = 0;
  for (const uint32_t id : order) total += weight(id);
  std::vector<uint32_t> kept;
  for (const uint32_t id : order) {
    if (weight(id) < filters.min_p || (filters.top_p < 1 && sum >= filters.top_p * total)) break;
    kept.push_back(id);
    sum += weight(id);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

Values ranked(std::span<const float> logits) {
  Values values(logits);
  values.rank();
  return values;
}

SampleSpec drawing(const Filters& filters) {
  SampleSpec spec;
  spec.greedy = false;
  spec.filters = filters;
  return spec;
}

}  // namespace

TEST_CASE("filters that would keep nothing are refused, and so is no uniform number") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Filters& bad : {Filters{-1}, Filters{nan}, Filters{1, 0, 0}, Filters{1, 0, 1.5},
                             Filters{1, 0, 1, 2}, Filters{1, 0, 1, -1}, Filters{1, 0, nan}})
    CHECK_THROWS_AS(Sampler({false, bad}, {}), SessionError);
  const Sampler sampler({false, Filters{1, 0, 1, 0}}, {});
  const std::vector<float> logits(64);
  for (const double uniform : {-0.1, 1.0, double(nan)})
    CHECK_THROWS_AS(sampler.choose(logits, uniform, {}), SessionError);
}

TEST_CASE("exponentials are those of the C library, from 0 down to where they are none") {
  std::vector<double> values(64 * kBlock), out(values.size()), sums(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = -0.34 * double(i);
  values[3] = -std::numeric_limits<double>::infinity();
  values[5] = -1e308;
  const double found = exponentials(values, 0, 1, out.data(), sums.data());
  double total = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = std::exp(values[i]);
    CHECK(std::abs(out[i] - expected) <= (expected < 1e-300 ? 1e-300 : 1e-15 * expected));
    total += expected;
  }
  CHECK(found == doctest::Approx(total).epsilon(1e-14));
  CHECK(std::accumulate(sums.begin(), sums.end(), 0.0) == doctest::Approx(total).epsilon(1e-14));
  exponentials(values, 2, 0.5, values.data(), nullptr);
  CHECK(values[0] == doctest::Approx(std::exp(-1)).epsilon(1e-15));
}

TEST_CASE("what is above a pivot is summed and counted, whatever the number of weights") {
  for (size_t n = 0; n < 40; ++n) {
    std::vector<double> weights(n);
    for (size_t i = 0; i < n; ++i) weights[i] = double(i % 5);
    const Side side = above(weights, 2);
    double sum = 0;
    for (const double w : weights) sum += w > 2 ? w : 0;
    CHECK(side.sum == sum);
    CHECK(side.n ==
          size_t(std::count_if(weights.begin(), weights.end(), [](double w) { return w > 2; })));
    CHECK(side.n_equal == size_t(std::count(weights.begin(), weights.end(), 2.0)));
  }
}

TEST_CASE("the best are the first of a stable sort") {
  for (const size_t n : {1, 2, 31, 32, 33, 64, 1000, 2100})
    for (const float step : {0.f, 0.5f, 100.f}) {
      const std::vector<float> logits = noise(n, uint32_t(n), step);
      const Values values = ranked(logits);
      const std::vector<uint32_t> order = by_size(logits);
      CHECK(values.first() == order[0]);
      for (const size_t k : {size_t(0), size_t(1), size_t(2), n / 40, n / 2, n - 1, n, n + 9}) {
        std::vector<uint32_t> expected(order.begin(), order.begin() + std::min(k, n));
        std::sort(expected.begin(), expected.end());
        CHECK(values.best(uint32_t(k)) == expected);
      }
    }
}

TEST_CASE("filters keep what a sort keeps, and draws take all of it in turn") {
  std::mt19937 random(1);
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  for (uint32_t seed = 0; seed < 400; ++seed) {
    const size_t n = 1 + random() % (seed % 10 ? 70 : 3000);
    const std::vector<float> logits = noise(n, seed, seed % 3 ? 0.f : 0.5f);
    Filters filters{0.3 + uniform(), 0, 1, 0};
    if (random() % 2) filters.top_k = 1 + random() % 50;
    if (random() % 2) filters.top_p = 0.01 + 0.98 * uniform();
    if (random() % 2) filters.min_p = 0.3 * uniform();
    const std::vector<uint32_t> expected = kept_by_sort(logits, filters);
    const Kept kept = keep(ranked(logits), filters);
    REQUIRE(kept.ids == expected);
    const double total = std::accumulate(kept.weights.begin(), kept.weights.end(), 0.0);
    double sum = 0;
    for (size_t i = 0; i < kept.ids.size(); ++i) {
      const double middle = (sum + kept.weights[i] / 2) / total;
      if (kept.weights[i] > 1e-9 * total)
        CHECK(draw(ranked(logits), filters, middle) == kept.ids[i]);
      sum += kept.weights[i];
    }
    for (const double edge : {0.0, 1 - 0x1p-53}) {
      const uint32_t token = draw(ranked(logits), filters, edge);
      CHECK(std::binary_search(kept.ids.begin(), kept.ids.end(), token));
    }
  }
}

TEST_CASE("weights that are nearly equal or far apart are cut in a bounded number of rounds") {
  std::vector<float> logits(20000);
  for (const float step : {0.f, 1e-6f, 1e-3f, 0.03f}) {
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = -step * float(i);
    for (const double top_p : {1e-12, 0.5, 1 - 1e-12}) {
      const Filters filters{1, 0, top_p, 0};
      const size_t found = keep(ranked(logits), filters).ids.size(),
                   expected = kept_by_sort(logits, filters).size();
      CHECK(found + 2 >= expected);  // where the sum is flat, its rounding decides
      CHECK(found <= expected + 2);
    }
  }
}

TEST_CASE("a mask, ends and what is seen change what is chosen, at every place of a word") {
  for (const uint32_t n : {1u, 31u, 32u, 33u, 70u}) {
    const std::vector<float> logits = noise(n, n, 0);
    for (uint32_t only = 0; only < n; ++only) {
      std::vector<uint32_t> mask((n + 31) / 32, 0);
      mask[only / 32] = 1u << (only % 32);
      CHECK(Sampler({}, {}).choose(logits, 0, mask).token == only);
    }
    std::vector<uint32_t> mask((n + 31) / 32, 0);
    if (n % 32) mask.back() = ~0u << (n % 32);  // bits of no token
    CHECK_THROWS_AS(Sampler({}, {}).choose(logits, 0, mask), SessionError);
    mask.push_back(0);
    CHECK_THROWS_AS(Sampler({}, {}).choose(logits, 0, mask), SessionError);
  }
  SampleSpec spec;
  spec.ends = {1, 7, 2};
  spec.min_tokens = 1;
  Sampler sampler(spec, {});
  const std::vector<float> logits{1, 5, 4, 2};
  CHECK(sampler.choose(logits, 0, {}).token == 3);
  const std::vector<uint32_t> ends_alone{0b0110};
  CHECK(sampler.choose(logits, 0, ends_alone).token == 1);
  sampler.take(0);
  CHECK(sampler.choose(logits, 0, {}).token == 1);
}

TEST_CASE("what is no logit, no id or no token that is left is refused") {
  std::vector<float> logits(40, 0.f);
  const uint32_t seen[] = {40};
  CHECK_THROWS_AS(Sampler({}, seen).choose(logits, 0, {}), SessionError);
  SampleSpec biased;
  biased.bias = {{UINT32_MAX, 1.0}};
  CHECK_THROWS_AS(Sampler(biased, {}).choose(logits, 0, {}), SessionError);
  CHECK_THROWS_AS(Sampler({}, {}).choose({}, 0, {}), SessionError);
  for (const float bad : {NAN, kInf})
    for (const size_t at : {0, 31, 32, 39}) {
      std::vector<float> wrong = logits;
      wrong[at] = bad;
      CHECK_THROWS_AS(Sampler({}, {}).choose(wrong, 0, {}), SessionError);
      CHECK_THROWS_AS(Sampler(drawing({1, 3, 1, 0}), {}).choose(wrong, 0, {}), SessionError);
    }
  std::fill(logits.begin(), logits.end(), -kInf);
  CHECK_THROWS_AS(Sampler(drawing({}), {}).choose(logits, 0, {}), SessionError);
}
