#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "stored_matrix.h"

using namespace moeflux;
using ops::cpu::available_kernels;
using ops::cpu::Kernels;
using quant::DType;
using test::Random;

TEST_CASE("every half decodes exactly") {
  std::vector<uint16_t> all(65536);
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  quant::Matrix m;
  static_cast<quant::Shape&>(m) = {1, 65536, 0, 0, DType::f16};
  m.weight = reinterpret_cast<const std::byte*>(all.data());
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> out(65536, std::nanf(""));
    kernels->dequant_row(m, 0, out.data());
    for (uint32_t i = 0; i < 65536; ++i) {
      const int exponent = i >> 10 & 31, fraction = i & 1023;
      const double sign = i & 0x8000 ? -1 : 1;
      if (exponent == 31) {
        REQUIRE(std::isfinite(out[i]) == false);
        continue;
      }
      const double expected =
          exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
      REQUIRE(out[i] == sign * expected);
    }
  }
}

TEST_CASE("exponentials stay finite and right from -100 to 100") {
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> x, one;
    for (float v = -100; v <= 100; v += 0.37f) x.push_back(v);
    one.assign(x.size(), 1);
    std::vector<float> silu = x, gated = one, swiglu(x.size(), std::nanf(""));
    const uint32_t n = static_cast<uint32_t>(x.size());
    kernels->silu(silu.data(), n);
    kernels->sigmoid_gate(gated.data(), x.data(), n);
    kernels->swiglu(x.data(), one.data(), n, swiglu.data());
    for (uint32_t i = 0; i < n; ++i) {
      const double sigmoid = 1 / (1 + std::exp(-double(x[i])));
      REQUIRE(std::fabs(gated[i] - sigmoid) <= 1e-6 * sigmoid + 1e-37);
      REQUIRE(std::fabs(silu[i] - x[i] * sigmoid) <= 1e-6 * std::fabs(x[i] * sigmoid) + 1e-35);
      REQUIRE(swiglu[i] == silu[i]);
    }
  }
}

TEST_CASE("softmax and attention equal double precision") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (uint32_t len : {1, 2, 15, 16, 17, 100, 4097})
      for (uint32_t dim : {16, 24, 64, 80}) {
        const size_t stride = dim + 5;
        std::vector<float> q(dim), k(len * stride), v(len * stride), scores(len),
            out(dim, std::nanf(""));
        for (auto* values : {&q, &k, &v})
          for (float& value : *values) value = random(-3, 3);
        kernels->attend(q.data(), k.data(), v.data(), stride, len, dim, 0.25f, scores.data(),
                        out.data());
        std::vector<double> p(len);
        double top = -1e300, total = 0;
        for (uint32_t j = 0; j < len; ++j) {
          for (uint32_t d = 0; d < dim; ++d) p[j] += double(q[d]) * k[j * stride + d];
          top = std::max(top, p[j] *= 0.25);
        }
        for (double& value : p) total += value = std::exp(value - top);
        for (uint32_t d = 0; d < dim; ++d) {
          double expected = 0;
          for (uint32_t j = 0; j < len; ++j) expected += p[j] / total * v[j * stride + d];
          REQUIRE(std::fabs(out[d] - expected) <= 3e-5);
        }
      }
}

TEST_CASE("a delta step equals the formula, in place or not") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (uint32_t dk : {16, 24, 32, 128})
      for (uint32_t dv : {1, 7, 32}) {
        std::vector<float> state(dv * dk), q(dk), k(dk), v(dv), out(dv, std::nanf("")),
            next(dv * dk, std::nanf(""));
        for (auto* values : {&state, &q, &k, &v})
          for (float& value : *values) value = random();
        const float g = 0.9f, beta = 0.4f;
        kernels->delta_step(state.data(), next.data(), q.data(), k.data(), v.data(), g, beta, dk,
                            dv, out.data());
        for (uint32_t row = 0; row < dv; ++row) {
          double memory = 0, result = 0;
          for (uint32_t i = 0; i < dk; ++i) memory += double(g) * state[row * dk + i] * k[i];
          for (uint32_t i = 0; i < dk; ++i) {
            const double s = double(g) * state[row * dk + i] + beta * (v[row] - memory) * k[i];
            REQUIRE(std::fabs(next[row * dk + i] - s) <= 1e-4);
            result += s * q[i];
          }
          REQUIRE(std::fabs(out[row] - result) <= 1e-3);
        }
        std::vector<float> again(dv);
        kernels->delta_step(state.data(), state.data(), q.data(), k.data(), v.data(), g, beta, dk,
                            dv, again.data());
        CHECK(state == next);
        CHECK(again == out);
      }
}

TEST_CASE("an unknown instruction set is refused by name") {
  CHECK_THROWS_AS(ops::cpu::select_kernels("mmx"), FormatError);
}
