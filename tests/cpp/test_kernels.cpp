#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"

using namespace moeflux;
using ops::cpu::Kernels;
using quant::DType;

namespace {

std::vector<const Kernels*> tables() {  // those that this machine can run
  std::vector<const Kernels*> found;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    try {
      found.push_back(&ops::cpu::select_kernels(name));
    } catch (const FormatError&) {
    }
  }
  return found;
}

struct Random {
  std::mt19937 engine{7};
  float operator()(float low = -1, float high = 1) {
    return std::uniform_real_distribution<float>(low, high)(engine);
  }
};

// A stored matrix and what it means, in double.
struct Stored {
  quant::Matrix m;
  std::vector<std::byte> weight, scales, biases;
  std::vector<double> value;

  static double put(std::vector<std::byte>& to, float x, DType dtype) {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    if (dtype == DType::f32) {
      to.insert(to.end(), reinterpret_cast<std::byte*>(&word),
                reinterpret_cast<std::byte*>(&word) + 4);
      return x;
    }
    uint16_t half;
    if (dtype == DType::bf16) {
      half = word >> 16;
      word = uint32_t(half) << 16;
    } else {  // truncate to a normal half: enough for test values of about one
      const int exponent = int(word >> 23 & 255) - 127 + 15;
      half = exponent <= 0 ? 0 : (word >> 16 & 0x8000) | exponent << 10 | (word >> 13 & 0x3ff);
      word = exponent <= 0 ? 0 : word & 0xffffe000;
    }
    to.insert(to.end(), reinterpret_cast<std::byte*>(&half),
              reinterpret_cast<std::byte*>(&half) + 2);
    std::memcpy(&x, &word, 4);
    return x;
  }

  Stored(uint32_t out, uint32_t in, uint32_t bits, uint32_t group, DType dtype, Random& random) {
    static_cast<quant::Shape&>(m) = {out, in, bits, bits ? group : 0, dtype};
    for (uint32_t row = 0; row < out; ++row) {
      if (bits == 0) {
        for (uint32_t i = 0; i < in; ++i) value.push_back(put(weight, random(), dtype));
        continue;
      }
      std::vector<uint8_t> stream(m.row_bytes());
      for (uint32_t g = 0; g < in / group; ++g) {
        const double scale = put(scales, random(), dtype), bias = put(biases, random(), dtype);
        for (uint32_t i = g * group; i < (g + 1) * group; ++i) {
          const uint32_t code = random.engine() & ((1u << bits) - 1);
          for (uint32_t bit = 0; bit < bits; ++bit)
            if (code >> bit & 1) stream[(i * bits + bit) / 8] |= 1 << (i * bits + bit) % 8;
          value.push_back(scale * code + bias);
        }
      }
      for (uint8_t byte : stream) weight.push_back(std::byte(byte));
    }
    m.weight = weight.data();
    m.scales = scales.data();
    m.biases = biases.data();
  }
};

void check_linear(const Kernels& kernels, const Stored& stored, uint32_t n, Random& random) {
  const uint32_t in = stored.m.in, out = stored.m.out;
  std::vector<float> x(n * in), y(n * out, std::nanf("")), alone(out, std::nanf(""));
  for (float& value : x) value = random();
  std::vector<const float*> xs;
  std::vector<float*> ys;
  for (uint32_t t = 0; t < n; ++t) {
    xs.push_back(x.data() + t * in);
    ys.push_back(y.data() + t * out);
  }
  std::vector<float> scratch(ops::cpu::kRowsPerBlock * in);
  kernels.linear(stored.m, 0, out, xs.data(), ys.data(), n, scratch.data());
  for (uint32_t t = 0; t < n; ++t)
    for (uint32_t row = 0; row < out; ++row) {
      double sum = 0, size = 0;
      for (uint32_t i = 0; i < in; ++i) {
        const double term = stored.value[row * in + i] * x[t * in + i];
        sum += term;
        size += std::fabs(term);
      }
      REQUIRE(std::fabs(y[t * out + row] - sum) <= 2e-6 * size + 1e-12);
    }
  float* to = alone.data();
  kernels.linear(stored.m, 0, out, &xs[n - 1], &to, 1, scratch.data());
  CHECK(std::memcmp(alone.data(), ys[n - 1], out * 4) == 0);  // alone == among others, bit for bit
}

}  // namespace

TEST_CASE("linear equals double precision for every format, shape and instruction set") {
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->name);
    Random random;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (uint32_t in : {1, 15, 16, 17, 33, 96})
        for (uint32_t out : {1, 3, 4, 5, 17})
          for (uint32_t n : {1, 2, 4, 5, 9})
            check_linear(*kernels, Stored(out, in, 0, 0, dtype, random), n, random);
      for (uint32_t bits : {2, 3, 4, 5, 6, 8})
        for (uint32_t group : {32, 64, 128})
          for (uint32_t n : {1, 3, 8})
            check_linear(*kernels, Stored(5, group * 3, bits, group, dtype, random), n, random);
    }
  }
}

TEST_CASE("every half decodes exactly") {
  std::vector<uint16_t> all(65536);
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  quant::Matrix m;
  static_cast<quant::Shape&>(m) = {1, 65536, 0, 0, DType::f16};
  m.weight = reinterpret_cast<const std::byte*>(all.data());
  for (const Kernels* kernels : tables()) {
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
  for (const Kernels* kernels : tables()) {
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
  for (const Kernels* kernels : tables())
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
  for (const Kernels* kernels : tables())
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
