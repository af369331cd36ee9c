// Attention over the cache and the gated delta net against double precision, and their contract
// that neither neighbours nor the split into calls changes a bit.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/cpu/kernels.h"
#include "stored_matrix.h"

using namespace moeflux;
using namespace moeflux::ops::cpu;
using ops::CacheType;
using ops::kCacheBlock;
using test::Random;

namespace {

float to_bf16(float x) {  // nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  std::memcpy(&x, &bits, 4);
  return x;
}

// The numbers of a position as a cache of int8 has them: 8 bits, under a scale of its own.
void to_codes(float* x, uint32_t dim) {
  float top = 0;
  for (uint32_t d = 0; d < dim; ++d) top = std::max(top, std::fabs(x[d]));
  const float scale = top / 127;
  for (uint32_t d = 0; d < dim; ++d) x[d] = std::nearbyint(x[d] / scale) * scale;
}

constexpr CacheType kCacheTypes[] = {CacheType::f32, CacheType::bf16, CacheType::int8};

// Keys and values of one head at positions [0, len), as given and as cached.
struct Cache {
  Cache(const Kernels& kernels, CacheType type, uint32_t len, uint32_t dim, Random& random)
      : kernels(kernels), type(type), len(len), dim(dim), keys(len * dim), values(len * dim) {
    block_bytes = cache_head_bytes(type, dim);
    // What was never written is NaN: it must not be read into a result.
    const size_t bytes = (len + kCacheBlock - 1) / kCacheBlock * block_bytes;
    cached_keys.assign(bytes, std::byte(0xff));
    cached_values.assign(bytes, std::byte(0xff));
    for (auto* numbers : {&keys, &values})
      for (float& number : *numbers) number = random(-3, 3);
    for (uint32_t p = 0; p < len; ++p) {
      const size_t at = p / kCacheBlock * block_bytes;
      kernels.cache_put(type, keys.data() + p * dim, values.data() + p * dim, dim, p % kCacheBlock,
                        cached_keys.data() + at, cached_values.data() + at);
    }
    for (auto* numbers : {&keys, &values}) {
      if (type == CacheType::bf16)
        for (float& number : *numbers) number = to_bf16(number);
      if (type == CacheType::int8)
        for (uint32_t p = 0; p < len; ++p) to_codes(numbers->data() + p * dim, dim);
    }
  }

  std::vector<float> empty_state() const {
    std::vector<float> state(attend_state_floats(dim), 0.0f);
    state[0] = -std::numeric_limits<float>::infinity();
    return state;
  }
  // States of the queries after all spans that each sees, from the position `from` on.
  std::vector<std::vector<float>> attend(const std::vector<std::vector<float>>& queries,
                                         const std::vector<uint32_t>& seen, float scale,
                                         const std::vector<uint32_t>& from = {}) const {
    const uint32_t n = static_cast<uint32_t>(queries.size());
    std::vector<std::vector<float>> states(n, empty_state());
    std::vector<const float*> q;
    std::vector<float*> to;
    for (uint32_t i = 0; i < n; ++i) {
      q.push_back(queries[i].data());
      to.push_back(states[i].data());
    }
    std::vector<float> scratch(attend_scratch_floats(dim, n), std::nanf(""));
    for (uint32_t first = 0; first < len; first += kSpan) {
      std::vector<uint32_t> begins, lens;
      for (uint32_t i = 0; i < n; ++i) {
        const uint32_t begin = from.empty() ? 0 : std::max(from[i], first) - first;
        lens.push_back(seen[i] <= first + begin ? 0 : std::min(seen[i] - first, kSpan));
        if (begin >= kSpan) lens.back() = 0;
        begins.push_back(lens.back() ? begin : 0);
      }
      const size_t at = first / kCacheBlock * block_bytes;
      kernels.attend({type, cached_keys.data() + at, cached_values.data() + at, block_bytes, dim,
                      scale, n, q.data(), begins.data(), lens.data(), to.data(), scratch.data(),
                      scratch.data() + n * kSpan});
    }
    return states;
  }

  const Kernels& kernels;
  CacheType type;
  uint32_t len, dim;
  std::vector<float> keys, values;
  uint64_t block_bytes = 0;
  std::vector<std::byte> cached_keys, cached_values;
};

}  // namespace

TEST_CASE("attention equals double precision for every length, dimension and cache type") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (CacheType type : kCacheTypes)
      for (uint32_t len : {1, 2, 15, 16, 17, 100, 255, 256, 257, 512, 1100})
        for (uint32_t dim : {8, 16, 24, 64, 80, 128}) {
          const Cache cache(*kernels, type, len, dim, random);
          const float scale = 0.25f;
          std::vector<std::vector<float>> queries;
          std::vector<uint32_t> seen, from;
          for (uint32_t i = 0; i < 11; ++i) {
            queries.emplace_back(dim);
            for (float& number : queries.back()) number = random(-3, 3);
            seen.push_back(i < 5 ? len : 1 + random.engine() % len);
            from.push_back(i % 2 ? random.engine() % seen.back() : 0);  // a window
          }
          const auto states = cache.attend(queries, seen, scale, from);
          for (uint32_t i = 0; i < queries.size(); ++i) {
            std::vector<double> p(seen[i]);
            double top = -1e300, total = 0;
            for (uint32_t j = from[i]; j < seen[i]; ++j) {
              for (uint32_t d = 0; d < dim; ++d)
                p[j] += double(queries[i][d]) * cache.keys[j * dim + d];
              top = std::max(top, p[j] *= scale);
            }
            for (uint32_t j = from[i]; j < seen[i]; ++j) total += p[j] = std::exp(p[j] - top);
            REQUIRE(std::fabs(states[i][0] - top) <= 1e-5 * (1 + std::fabs(top)));
            for (uint32_t d = 0; d < dim; ++d) {
              double expected = 0;
              for (uint32_t j = 0; j < seen[i]; ++j)
                expected += p[j] / total * cache.values[j * dim + d];
              REQUIRE(std::fabs(states[i][16 + d] / states[i][1] - expected) <= 3e-5);
            }
          }
        }
}

TEST_CASE("a query attends to the same bits alone and among others, in one go and span by span") {
  Random random;
  const uint32_t len = 700, dim = 64;
  for (const Kernels* kernels : available_kernels())
    for (CacheType type : kCacheTypes) {
      const Cache cache(*kernels, type, len, dim, random);
      std::vector<std::vector<float>> queries;
      std::vector<uint32_t> seen;
      for (uint32_t i = 0; i < 21; ++i) {
        queries.emplace_back(dim);
        for (float& number : queries.back()) number = random(-3, 3);
        seen.push_back(len - 33 * i);
      }
      const auto together = cache.attend(queries, seen, 0.125f);
      for (uint32_t i = 0; i < queries.size(); ++i) {
        REQUIRE(cache.attend({queries[i]}, {seen[i]}, 0.125f)[0] == together[i]);
        // Each span into a state of its own, merged in order, as single rows are.
        std::vector<float> whole;
        for (uint32_t first = 0; first < seen[i]; first += kSpan) {
          std::vector<float> state = cache.empty_state();
          const float* q = queries[i].data();
          float* to = state.data();
          const uint32_t begin = 0, n = std::min(seen[i] - first, kSpan);
          std::vector<float> scratch(attend_scratch_floats(dim, 1));
          const size_t at = first / kCacheBlock * cache.block_bytes;
          kernels->attend({type, cache.cached_keys.data() + at, cache.cached_values.data() + at,
                           cache.block_bytes, dim, 0.125f, 1, &q, &begin, &n, &to, scratch.data(),
                           scratch.data() + kSpan});
          if (whole.empty())
            whole = state;
          else
            kernels->attend_merge(state.data(), dim, whole.data());
        }
        REQUIRE(whole == together[i]);
      }
    }
}

TEST_CASE("a cache of int8 holds zeros, the largest floats, and tells what is not finite") {
  const uint32_t dim = 24;
  for (const Kernels* kernels : available_kernels()) {
    std::vector<std::byte> keys(cache_head_bytes(CacheType::int8, dim)), values(keys.size());
    const auto put = [&](float first) {
      std::vector<float> x(dim, 0.0f);
      x[0] = first;
      kernels->cache_put(CacheType::int8, x.data(), x.data(), dim, 3, keys.data(), values.data());
      float scale;
      std::memcpy(&scale, &values[cache_codes_bytes(CacheType::int8, dim) + 3 * 4], 4);
      return scale * static_cast<int8_t>(values[3 * cache_width(dim)]);
    };
    CHECK(put(0.0f) == 0.0f);
    CHECK(put(-3e38f) == doctest::Approx(-3e38f));
    CHECK(std::isfinite(put(1e-45f)));
    CHECK_FALSE(std::isfinite(put(std::numeric_limits<float>::infinity())));
    CHECK_FALSE(std::isfinite(put(std::nanf(""))));
  }
}

TEST_CASE("attention holds for scores far apart and all equal") {
  Random random;
  for (const Kernels* kernels : available_kernels()) {
    const Cache cache(*kernels, CacheType::f32, 600, 16, random);
    for (float size : {0.0f, 1e4f}) {
      std::vector<float> query(16);
      for (float& number : query) number = size * random();
      const std::vector<float> state = cache.attend({query}, {600}, 1.0f)[0];
      REQUIRE(state[1] >= 1.0f);
      for (uint32_t d = 0; d < 16; ++d) REQUIRE(std::fabs(state[16 + d] / state[1]) <= 3.0f);
    }
  }
}

TEST_CASE("rotation turns pairs half a rotary dimension apart") {
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> x(40), cosine(17), sine(17);
    Random random;
    for (auto* numbers : {&x, &cosine, &sine})
      for (float& number : *numbers) number = random();
    std::vector<float> y = x;
    kernels->rotate(y.data(), cosine.data(), sine.data(), 17);
    for (uint32_t i = 0; i < 40; ++i) {
      const double expected = i < 17 ? double(x[i]) * cosine[i] - double(x[i + 17]) * sine[i]
                              : i < 34
                                  ? double(x[i]) * cosine[i - 17] + double(x[i - 17]) * sine[i - 17]
                                  : x[i];
      REQUIRE(y[i] == doctest::Approx(expected).epsilon(1e-6));
    }
  }
}

namespace {

struct DeltaCase {
  DeltaCase(uint32_t n, uint32_t dk, uint32_t dv, Random& random)
      : n(n), dk(dk), dv(dv), state(dv * dk), q(n * dk), k(n * dk), v(n * dv), g(n), beta(n) {
    for (auto* values : {&state, &q, &k, &v})
      for (float& value : *values) value = random() / std::sqrt(float(dk));
    for (float& value : g) value = random(0.5f, 1);
    for (float& value : beta) value = random(0, 1);
  }
  DeltaRule rule(uint32_t token, uint32_t count, const float* from, float* to, float* out) const {
    return {from,
            to,
            q.data() + token * dk,
            k.data() + token * dk,
            v.data() + token * dv,
            g.data() + token,
            beta.data() + token,
            out + token * dv,
            dk,
            dv,
            1,
            dv,
            count,
            dk,
            0,
            dv};
  }
  uint32_t n, dk, dv;
  std::vector<float> state, q, k, v, g, beta;
};

}  // namespace

TEST_CASE("the delta rule equals the formula, and in steps of any length and place") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (uint32_t dk : {1, 16, 24, 32, 48, 64, 100, 128, 144, 256})
      for (auto [dv, n] : {std::pair(1u, 6u), {7u, 6u}, {32u, 6u}, {40u, 21u}, {7u, 21u}}) {
        const DeltaCase c(n, dk, dv, random);
        std::vector<float> out(n * dv, std::nanf("")), next(dv * dk, std::nanf(""));
        kernels->delta_rule(c.rule(0, n, c.state.data(), next.data(), out.data()));
        std::vector<double> s(c.state.begin(), c.state.end());
        for (uint32_t t = 0; t < n; ++t)
          for (uint32_t row = 0; row < dv; ++row) {
            double memory = 0, result = 0;
            for (uint32_t i = 0; i < dk; ++i)
              memory += (s[row * dk + i] *= c.g[t]) * c.k[t * dk + i];
            for (uint32_t i = 0; i < dk; ++i) {
              s[row * dk + i] += c.beta[t] * (c.v[t * dv + row] - memory) * c.k[t * dk + i];
              result += s[row * dk + i] * c.q[t * dk + i];
            }
            REQUIRE(std::fabs(out[t * dv + row] - result) <= 1e-5);
          }
        for (uint32_t i = 0; i < dv * dk; ++i) REQUIRE(std::fabs(next[i] - s[i]) <= 1e-5);

        std::vector<float> again(n * dv, std::nanf("")), place = c.state;
        constexpr uint32_t kCounts[] = {1, 8, 2, 10};  // one by one and, from 8 on, by columns
        for (uint32_t t = 0, i = 0; t < n; t += kCounts[i++ % 4])
          kernels->delta_rule(
              c.rule(t, std::min(kCounts[i % 4], n - t), place.data(), place.data(), again.data()));
        CHECK(std::memcmp(place.data(), next.data(), next.size() * sizeof(float)) == 0);
        CHECK(std::memcmp(again.data(), out.data(), out.size() * sizeof(float)) == 0);
      }
}

TEST_CASE("convolution equals the formula for every width, range and history") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (uint32_t width : {2, 3, 4, 7, 17})
      for (uint32_t channels : {1, 16, 40, 67})
        for (uint32_t n : {1, 5}) {
          std::vector<float> input((width - 1 + n) * channels), weights(channels * width),
              bias(channels), out(n * channels, std::nanf("")), plain = out;
          for (auto* values : {&input, &weights, &bias})
            for (float& value : *values) value = random(-2, 2);
          std::vector<const float*> rows;
          for (uint32_t i = 0; i < width - 1 + n; ++i) rows.push_back(input.data() + i * channels);
          const uint32_t middle = channels > 16 ? 19 : channels;
          for (auto [begin, end] : {std::pair(0u, middle), std::pair(middle, channels)}) {
            kernels->convolve(
                {rows.data(), weights.data(), out.data(), channels, width, n, begin, end});
            kernels->convolve({rows.data(), weights.data(), plain.data(), channels, width, n, begin,
                               end, bias.data(), false});
          }
          for (uint32_t t = 0; t < n; ++t)
            for (uint32_t c = 0; c < channels; ++c) {
              double x = 0;
              for (uint32_t j = 0; j < width; ++j)
                x += double(weights[c * width + j]) * rows[t + j][c];
              REQUIRE(std::fabs(out[t * channels + c] - x / (1 + std::exp(-x))) <= 2e-5);
              REQUIRE(std::fabs(plain[t * channels + c] - (x + bias[c])) <= 2e-5);
            }
        }
}
