#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
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
  m.shape = {1, 65536, &quant::plain(DType::f16), 0, DType::f16};
  m.planes[quant::kCodes] = reinterpret_cast<const std::byte*>(all.data());
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

// torch's GELU with tanh, in doubles.
TEST_CASE("a unit of GELU is that with tanh, and stays finite") {
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> gate, up;
    for (float v = -60; v <= 60; v += 0.37f) gate.push_back(v), up.push_back(0.7f * v + 1);
    const uint32_t n = static_cast<uint32_t>(gate.size());
    std::vector<float> found(n, std::nanf(""));
    kernels->geglu(gate.data(), up.data(), n, found.data());
    for (uint32_t i = 0; i < n; ++i) {
      const double g = gate[i], y = std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
      const double expected = 0.5 * g * (1 + std::tanh(y)) * up[i];
      REQUIRE(std::fabs(found[i] - expected) <= 2e-6 * std::fabs(expected) + 2e-5);
    }
  }
}

TEST_CASE("a squared ReLU is nothing below zero, and keeps what is no number") {
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> x;
    for (float v = -9; v <= 9; v += 0.37f) x.push_back(v);
    x[3] = std::nanf("");
    const uint32_t n = static_cast<uint32_t>(x.size());
    std::vector<float> found(n, -1);
    kernels->relu2(x.data(), n, found.data());
    for (uint32_t i = 0; i < n; ++i)
      REQUIRE((i == 3 ? std::isnan(found[i]) : found[i] == (x[i] > 0 ? x[i] * x[i] : 0)));
  }
}

// transformers' GptOssExperts._apply_gate, in doubles.
TEST_CASE("a clamped gated unit is that of GPT-OSS") {
  for (const Kernels* kernels : available_kernels()) {
    std::vector<float> gate, up;
    for (float v = -20; v <= 20; v += 0.37f) gate.push_back(v), up.push_back(0.7f * v + 1);
    const uint32_t n = static_cast<uint32_t>(gate.size());
    std::vector<float> found(n, std::nanf(""));
    kernels->clamped_glu(gate.data(), up.data(), n, 7, 1.702f, 1, found.data());
    for (uint32_t i = 0; i < n; ++i) {
      const double g = std::min(double(gate[i]), 7.0), u = std::clamp(double(up[i]), -7.0, 7.0);
      const double expected = (u + 1) * g / (1 + std::exp(-1.702f * g));
      REQUIRE(std::fabs(found[i] - expected) <= 2e-6 * std::fabs(expected) + 1e-12);
    }
    gate[1] = up[2] = std::nanf("");  // what is no number stays none, so that logits show it
    kernels->clamped_glu(gate.data(), up.data(), n, 7, 1.702f, 1, found.data());
    for (uint32_t i = 0; i < 4; ++i) REQUIRE(std::isnan(found[i]) == (i == 1 || i == 2));
  }
}

TEST_CASE("an unknown instruction set is refused, and those of this machine are named") {
  for (const char* forced : {"mmx", "neon_i8mm", "AVX2"}) {
    std::string message;
    try {
      ops::cpu::select_kernels(forced);
    } catch (const FormatError& error) {
      message = error.what();
    }
#ifdef __aarch64__
    CHECK(message.find("expected neon or portable,") != std::string::npos);
#else
    CHECK(message.find("expected avx512, avx2 or portable,") != std::string::npos);
#endif
    CHECK(message.find(forced) != std::string::npos);
  }
}

TEST_CASE("the best kernels are chosen, and the portable ones on demand") {
  CHECK(&ops::cpu::select_kernels(nullptr) == available_kernels().front());
  CHECK(&ops::cpu::select_kernels("") == available_kernels().front());
  CHECK(&ops::cpu::select_kernels("portable") == available_kernels().back());
  if (const char* expected = std::getenv("MOEFLUX_TEST_KERNELS"))  // of a known machine
    CHECK(std::string(ops::cpu::select_kernels(nullptr).name) == expected);
}
