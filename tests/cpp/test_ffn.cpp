// Networks on the CPU: one whose gate and up are one matrix, and what is between gate, up and down.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "ops/cpu/cpu_ops.h"

using namespace moeflux;

namespace {

std::vector<float> noise(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(n);
  for (float& value : out) value = normal(random);
  return out;
}

ops::Linear linear(const std::vector<float>& weights, uint32_t out, uint32_t in) {
  return {quant::contiguous({out, in}, reinterpret_cast<const std::byte*>(weights.data()))};
}

std::vector<float> run(const ops::GatedFfn& ffn, const std::vector<float>& x, uint32_t n) {
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  ops::Workload work;
  work.rows = n;
  work.dense = {&ffn};
  ops::cpu::CpuOps cpu(arena, *ops::cpu::kernels_portable(), 2, ops::Precision::float32);
  cpu.reserve(work);
  std::vector<float> out(uint64_t(n) * ffn.down.out(), std::nanf(""));
  cpu.ffn(ffn, {x.data(), n}, out.data());
  return out;
}

}  // namespace

TEST_CASE("a network whose gate and up are one matrix has the bits of one with two") {
  const uint32_t d = 32;
  for (const uint32_t width : {1u, 8u, 256u, 600u})
    for (const uint32_t n : {1u, 20u})
      for (const float limit : {0.0f, 2.0f}) {
        const std::vector<float> gate = noise(width * d, 1), up = noise(width * d, 2),
                                 down = noise(width * d, 3), x = noise(n * d, 4),
                                 biases = noise(2 * width, 5);
        std::vector<float> both(2 * width * d), gate_bias(width), up_bias(width);
        for (uint32_t row = 0; row < width; ++row) {
          std::copy_n(&gate[row * d], d, &both[2 * row * d]);
          std::copy_n(&up[row * d], d, &both[(2 * row + 1) * d]);
          gate_bias[row] = biases[2 * row], up_bias[row] = biases[2 * row + 1];
        }
        ops::GatedFfn two{linear(gate, width, d), linear(up, width, d), linear(down, d, width)};
        two.limit = limit, two.alpha = limit ? 1.702f : 1.0f, two.up_add = limit ? 1.0f : 0.0f;
        ops::GatedFfn one = two;
        one.gate = linear(both, 2 * width, d), one.up = {}, one.interleaved = true;
        REQUIRE(one.width() == width);
        two.gate.bias = gate_bias.data(), two.up.bias = up_bias.data();
        one.gate.bias = biases.data();
        const std::vector<float> found = run(one, x, n);
        REQUIRE(found == run(two, x, n));
        for (uint32_t row = 0; row < n; row += 7)  // and those of the formula
          for (uint32_t out = 0; out < d; out += 5) {
            double expected = 0, size = 1;
            for (uint32_t i = 0; i < width; ++i) {
              double g = gate_bias[i], u = up_bias[i];
              for (uint32_t k = 0; k < d; ++k) {
                g += double(gate[i * d + k]) * x[row * d + k];
                u += double(up[i * d + k]) * x[row * d + k];
              }
              if (limit) g = std::min<double>(g, limit), u = std::clamp<double>(u, -limit, limit);
              const double hidden = (u + two.up_add) * g / (1 + std::exp(-two.alpha * g));
              expected += hidden * down[out * width + i];
              size += std::fabs(hidden * down[out * width + i]);
            }
            REQUIRE(std::fabs(found[row * d + out] - expected) <= 2e-6 * size);
          }
      }
}

TEST_CASE("a network of squared ReLU has two matrices, alone and in blocks of rows") {
  const uint32_t d = 32;
  for (const uint32_t width : {1u, 8u, 300u})
    for (const uint32_t n : {1u, 20u}) {
      const std::vector<float> gate = noise(width * d, 1), down = noise(width * d, 3),
                               x = noise(n * d, 4);
      ops::GatedFfn ffn{linear(gate, width, d), {}, linear(down, d, width)};
      ffn.unit = ops::Unit::relu2;
      const std::vector<float> found = run(ffn, x, n);
      for (uint32_t row = 0; row < n; row += 7)
        for (uint32_t out = 0; out < d; out += 5) {
          double expected = 0, size = 1;
          for (uint32_t i = 0; i < width; ++i) {
            double g = 0;
            for (uint32_t k = 0; k < d; ++k) g += double(gate[i * d + k]) * x[row * d + k];
            const double hidden = g > 0 ? g * g : 0;
            expected += hidden * down[out * width + i];
            size += std::fabs(hidden * down[out * width + i]);
          }
          REQUIRE(std::fabs(found[row * d + out] - expected) <= 2e-6 * size);
        }
    }
}

TEST_CASE("a unit other than SwiGLU's is plain, and squared ReLU has no rows of up") {
  ops::GatedFfn ffn;
  ffn.unit = ops::Unit::relu2;
  CHECK(ffn.fault() == "");
  ffn.interleaved = true;
  CHECK(ffn.fault() == "a unit of relu2 without rows of up");
  ffn.alpha = 2;
  CHECK(ffn.fault() == "a unit of relu2 without limit, alpha and up_add");
}

TEST_CASE("a matrix of gate and up has an even number of rows") {
  ops::GatedFfn ffn;
  ffn.interleaved = true;
  ffn.gate.weight.shape.out = 6;
  CHECK(ffn.fault() == "");
  ffn.gate.weight.shape.out = 7;
  CHECK(ffn.fault() == "an even number of rows, found 7");
}
