// Mamba-2's recurrence against double precision, and its contract that the split into calls and
// into rows changes no bit.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "ops/cpu/kernels.h"
#include "ops/mixers/mamba2.h"
#include "stored_matrix.h"

using namespace moeflux;
using namespace moeflux::ops::cpu;
using test::Random;

namespace {

struct SpaceCase {
  SpaceCase(uint32_t n, uint32_t width, uint32_t rows, Random& random)
      : n(n),
        width(width),
        rows(rows),
        state(rows * width),
        b(n * width),
        c(n * width),
        u(n * width),
        g(n),
        dt(n) {
    for (auto* values : {&state, &b, &c, &u})
      for (float& value : *values) value = random() / std::sqrt(float(width));
    for (float& value : g) value = random(0.5f, 1);
    for (float& value : dt) value = random(0, 2);
  }
  // Tokens [token, token + count) of rows [begin, end). All rows of tokens are `width` apart.
  StateSpace space(uint32_t token, uint32_t count, const float* from, float* to, float* out,
                   uint32_t begin, uint32_t end) const {
    StateSpace s;
    s.state_in = from, s.state_out = to;
    s.u = u.data() + token * width, s.b = b.data() + token * width, s.c = c.data() + token * width;
    s.g = g.data() + token, s.dt = dt.data() + token, s.out = out + token * rows;
    s.stride = width, s.gate_stride = 1, s.out_stride = rows, s.skip = 0.75f;
    s.n = count, s.width = width, s.begin = begin, s.end = end;
    return s;
  }
  uint32_t n, width, rows;
  std::vector<float> state, b, c, u, g, dt;  // u has `rows` numbers of each token's `width`
};

}  // namespace

TEST_CASE("the state space equals the formula, and in steps of any length and place") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (uint32_t width : {7, 16, 24, 32, 48, 64, 100, 128, 256})
      for (uint32_t n : {1, 6, 21}) {
        const uint32_t rows = std::min(width, 11u);
        const SpaceCase c(n, width, rows, random);
        std::vector<float> out(n * rows, std::nanf("")), next(rows * width, std::nanf(""));
        kernels->state_space(c.space(0, n, c.state.data(), next.data(), out.data(), 0, rows));
        std::vector<double> s(c.state.begin(), c.state.end());
        for (uint32_t t = 0; t < n; ++t)
          for (uint32_t row = 0; row < rows; ++row) {
            const double u = c.u[t * width + row];
            double result = 0.75 * u;
            for (uint32_t i = 0; i < width; ++i) {
              s[row * width + i] = c.g[t] * s[row * width + i] + c.dt[t] * u * c.b[t * width + i];
              result += s[row * width + i] * c.c[t * width + i];
            }
            REQUIRE(std::fabs(out[t * rows + row] - result) <= 1e-5);
          }
        for (uint32_t i = 0; i < rows * width; ++i) REQUIRE(std::fabs(next[i] - s[i]) <= 1e-5);

        std::vector<float> again(n * rows, std::nanf("")), place = c.state;
        constexpr uint32_t kCounts[] = {1, 8, 2, 10};
        for (uint32_t t = 0, i = 0; t < n; t += kCounts[i++ % 4])
          for (auto [begin, end] : {std::pair(0u, rows / 2), std::pair(rows / 2, rows)})
            kernels->state_space(c.space(t, std::min(kCounts[i % 4], n - t), place.data(),
                                         place.data(), again.data(), begin, end));
        CHECK(std::memcmp(place.data(), next.data(), next.size() * sizeof(float)) == 0);
        CHECK(std::memcmp(again.data(), out.data(), out.size() * sizeof(float)) == 0);
      }
}

TEST_CASE("a state space has heads in whole groups") {
  ops::Mamba2 w;
  w.n_heads = 6, w.head_dim = 8, w.n_groups = 3, w.state_dim = 16, w.conv_width = 4;
  CHECK(w.fault() == "");
  CHECK(w.state_floats() == 6 * 8 * 16 + 3 * (6 * 8 + 2 * 3 * 16));
  w.n_groups = 4;
  CHECK(w.fault() == "groups that divide 6 heads, found 4");
  w.n_groups = 0;
  CHECK(w.fault() == "heads, a state and a convolution of at least one number");
}
