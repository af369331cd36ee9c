// Products with weights: every format, precision, shape and instruction set against double
// precision; and the contract of kernels.h that no blocking changes a bit.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "ops/cpu/kernels.h"
#include "other_formats.h"
#include "stored_matrix.h"

using namespace moeflux;
using namespace moeflux::ops::cpu;
using ops::Precision;
using quant::DType;
using test::Random;
using test::Stored;

namespace {

constexpr Precision kPrecisions[] = {Precision::float32, Precision::bfloat16, Precision::int8};

struct Aligned {  // bytes at a multiple of 64
  explicit Aligned(size_t n) : memory(new std::byte[n + 64]) {
    data = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64;
  }
  std::unique_ptr<std::byte[]> memory;
  std::byte* data;
};

// n rows of activations, prepared, and where the products go; y is NaN before.
struct Rows {
  Rows(const Kernels& kernels, const quant::Matrix& w, Precision precision,
       const std::vector<float>& x)
      : kernels(kernels),
        w(w),
        format(input_format(w.shape, precision, kernels)),
        n(static_cast<uint32_t>(x.size() / w.shape.in)),
        stride(input_bytes(format, w.shape.in)),
        memory(n * stride) {
    for (uint32_t t = 0; t < n; ++t) {
      kernels.prepare(format, x.data() + t * w.shape.in, w.shape.in, memory.data + t * stride);
      records.push_back(memory.data + t * stride);
    }
  }
  template <class F>
  std::vector<float> outputs(F&& compute) const {
    std::vector<float> y(n * w.shape.out, std::nanf(""));
    std::vector<float*> rows;
    for (uint32_t t = 0; t < n; ++t) rows.push_back(y.data() + t * w.shape.out);
    compute(rows.data());
    return y;
  }
  std::vector<float> matvec() const {
    return outputs(
        [&](float* const* y) { kernels.matvec(w, format, 0, w.shape.out, records.data(), y, n); });
  }
  std::vector<float> gemm() const {
    const uint32_t blocks = (n + kBlockTokens - 1) / kBlockTokens;
    std::vector<const std::byte*> padded = records;
    padded.resize(blocks * kBlockTokens, nullptr);
    const uint64_t bytes = packed_bytes(format, w.shape.in);
    Aligned packed(blocks * bytes), scratch(kernels.gemm_scratch(w.shape.in, w.shape.group));
    for (uint32_t b = 0; b < blocks; ++b)
      kernels.pack(format, w.shape.in, padded.data() + b * kBlockTokens, packed.data + b * bytes);
    return outputs([&](float* const* y) {
      kernels.gemm(w, format, 0, w.shape.out, packed.data, y, n, scratch.data);
    });
  }

  const Kernels& kernels;
  const quant::Matrix& w;
  InputFormat format;
  uint32_t n;
  uint64_t stride;
  Aligned memory;
  std::vector<const std::byte*> records;
};

// The largest error that the stated rounding of an activation allows.
double rounding(const InputFormat& format, double x, double top) {
  if (format.planes == 0) return format.round_bf16 ? std::fabs(x) / 256 : 0;
  const double steps[] = {0, 127, 32639, 8355684};
  return 0.5 * top / steps[format.digits];
}

void check(const Kernels& kernels, const Stored& stored, Precision precision,
           const std::vector<float>& x) {
  const uint32_t in = stored.m.shape.in, out = stored.m.shape.out;
  const Rows rows(kernels, stored.m, precision, x);
  const std::vector<float> y = rows.matvec();
  for (uint32_t t = 0; t < rows.n; ++t)
    for (uint32_t row = 0; row < out; ++row) {
      const double* w = stored.value.data() + row * in;
      const float* token = x.data() + t * in;
      double sum = 0, size = 0, allowed = 0;
      for (uint32_t begin = 0; begin < in;) {
        const uint32_t end = rows.format.planes ? begin + stored.m.shape.group : begin + 1;
        double top = 0;
        for (uint32_t i = begin; i < end; ++i)  // not fmax, on which GCC 12 fails for arm64
          top = std::max(top, double(std::fabs(token[i])));
        for (; begin < end; ++begin) {
          sum += w[begin] * token[begin];
          size += std::fabs(w[begin] * token[begin]);
          allowed += std::fabs(w[begin]) * rounding(rows.format, token[begin], top);
        }
      }
      REQUIRE(std::fabs(y[t * out + row] - sum) <= allowed + 2e-6 * size + 1e-12);
    }
  if (rows.format.planes == 0) return;
  REQUIRE(std::memcmp(rows.gemm().data(), y.data(), y.size() * 4) == 0);
}

double number(const std::vector<std::byte>& from, size_t index, DType dtype) {
  float value = 0;
  const uint64_t bytes = quant::dtype_bytes(dtype);
  if (!from.empty()) quant::to_float(from.data() + index * bytes, 1, dtype, &value);
  return value;
}

std::vector<float> activations(uint32_t n, uint32_t in, Random& random) {
  std::vector<float> x(n * in);
  for (float& value : x) value = random() * std::exp(random(-3, 3));
  return x;
}

}  // namespace

TEST_CASE("products equal double precision for every format, precision and shape") {
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(kernels->name);
    Random random;
    for (Precision precision : kPrecisions)
      for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        for (uint32_t in : {1, 15, 16, 17, 33, 96})
          for (uint32_t out : {1, 3, 4, 5, 17})
            for (uint32_t n : {1, 2, 5, 7, 13})
              check(*kernels, Stored(out, in, 0, 0, dtype, random), precision,
                    activations(n, in, random));
        for (uint32_t bits : {2, 3, 4, 5, 6, 8})
          for (uint32_t group : {32, 64, 128})
            for (uint32_t groups : {1, 3, 16, 17})
              for (uint32_t n : {1, 2, 5})
                check(*kernels, Stored(5, group * groups, bits, group, dtype, random), precision,
                      activations(n, group * groups, random));
      }
  }
}

TEST_CASE("many tokens and rows, in tiles that are full and not") {
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(kernels->name);
    Random random;
    for (Precision precision : kPrecisions)
      for (uint32_t bits : {4, 8, 3})
        for (uint32_t out : {1, 15, 16, 17, 65, 150})
          for (uint32_t n : {15, 16, 17, 32, 49})
            check(*kernels, Stored(out, 320, bits, 64, DType::bf16, random), precision,
                  activations(n, 320, random));
  }
}

TEST_CASE("so do formats with a zero in place of biases, with a table, and groups of 16") {
  std::vector<quant::Format> formats = {test::by_table()};
  for (uint32_t bits : {2, 3, 4, 5, 6, 8}) {
    formats.push_back(test::in_any_groups(bits));
    formats.push_back(test::symmetric(bits));
  }
  Random random;
  for (const quant::Format& format : formats)
    for (uint32_t group : test::kAllGroups)
      for (uint32_t groups : {3, 17, 36})
        for (DType dtype : {DType::f16, DType::bf16}) {
          CAPTURE(format.name);
          CAPTURE(format.bits);
          const uint32_t in = group * groups;
          const Stored stored({17, in, &format, group, dtype}, random);
          Stored largest({3, in, &format, group, dtype}, random);
          std::fill(largest.weight.begin(), largest.weight.end(), std::byte{255});
          const uint32_t top = format.table ? 255 : (1u << format.bits) - 1;
          for (size_t i = 0; i < largest.value.size(); ++i)
            largest.value[i] =
                number(largest.scales, i / group, dtype) * (double(top) - format.zero) +
                number(largest.biases, i / group, dtype);
          for (const Kernels* kernels : available_kernels()) {
            CAPTURE(kernels->name);
            std::vector<float> row(in);
            kernels->dequant_row(stored.m, 16, row.data());
            for (uint32_t i = 0; i < in; ++i)
              REQUIRE(row[i] == doctest::Approx(stored.value[16 * in + i]).epsilon(1e-5));
            for (Precision precision : kPrecisions) {
              check(*kernels, stored, precision, activations(groups < 17 ? 17 : 1, in, random));
              check(*kernels, largest, precision, std::vector<float>(2 * in, 1.0f));
            }
          }
        }
}

TEST_CASE("so do formats of two levels of scales, in every position of a super") {
  Random random;
  for (const quant::Levels& levels : test::kLevels)
    for (const uint32_t bits : {2, 3, 4, 5, 6, 8})
      for (const uint32_t group : {16, 32})
        for (const uint32_t in : {256, 4352}) {
          const quant::Format format = test::two_levels(bits, levels);
          CAPTURE(bits);
          CAPTURE(levels.bits);
          const Stored stored({3, in, &format, group, DType::f16}, random);
          REQUIRE(stored.scales.size() == stored.m.shape.plane_bytes(quant::kScales));
          for (const Kernels* kernels : available_kernels()) {
            CAPTURE(kernels->name);
            std::vector<float> row(in);
            kernels->dequant_row(stored.m, 2, row.data());
            for (uint32_t i = 0; i < in; ++i) {  // a sum, of exact numbers up to 6 bits
              const double value = stored.value[2 * in + i];
              if (bits < 8)
                REQUIRE(row[i] == static_cast<float>(value));
              else
                REQUIRE(row[i] == doctest::Approx(value).epsilon(1e-6));
            }
            for (Precision precision : kPrecisions)
              check(*kernels, stored, precision, activations(in == 256 ? 17 : 1, in, random));
          }
        }
}

TEST_CASE("so do floats of 8 bits, whose scales may cover rows and be cut at both edges") {
  Random random;
  for (const char* name : {"fp8", "fp8_rows", "fp8_tensor", "mxfp8"})
    for (const uint32_t in : {32, 96, 320, 4128, 16544})
      for (const uint32_t out : {1, 5, 130})
        for (DType dtype : {DType::f32, DType::bf16}) {
          if (in > 4000 && out > 5) continue;
          const quant::Format& format = quant::find_format(name);
          const Stored stored({out, in, &format, format.groups[0], dtype}, random);
          REQUIRE(stored.scales.size() == stored.m.shape.plane_bytes(quant::kScales));
          for (const Kernels* kernels : available_kernels()) {
            CAPTURE(kernels->name);
            std::vector<float> row(in);
            kernels->dequant_row(stored.m, out - 1, row.data());
            for (uint32_t i = 0; i < in; ++i)
              REQUIRE(row[i] == static_cast<float>(stored.value[(out - 1) * uint64_t(in) + i]));
            for (Precision precision : kPrecisions)
              for (const uint32_t n : {1, 8})
                if (in < 4000 || n == 1)
                  check(*kernels, stored, precision, activations(n, in, random));
          }
        }
}

TEST_CASE("every number of E4M3 under every kind and extreme of a scale") {
  Random random;
  for (const char* name : {"fp8", "mxfp8"})
    for (const float scale : {1.0f, -0.75f, 0x1p-149f, 0x1.8p-140f, 0x1.fffffep118f, 0x1p-126f}) {
      const quant::Format& format = quant::find_format(name);
      Stored stored({1, 256, &format, format.groups[0], DType::f32}, random);
      const bool has_exponents = format.planes[quant::kScales].bits == 8;
      for (size_t i = 0; i < 8; ++i) {
        if (has_exponents)
          stored.scales[i] = std::byte(i == 0 ? 0 : i == 1 ? 245 : i * 30);
        else
          std::memcpy(&stored.scales[i / 4 * 4], &scale, 4);
      }
      for (uint32_t i = 0; i < 256; ++i) {
        stored.weight[i] = std::byte((i & 127) == 127 ? 0 : i);
        const double of = has_exponents ? std::ldexp(1.0, int(stored.scales[i / 32]) - 127) : scale;
        stored.value[i] = Stored::float8(quant::Float8::e4m3, uint32_t(stored.weight[i])) * of;
      }
      for (const Kernels* kernels : available_kernels()) {
        CAPTURE(kernels->name);
        std::vector<float> row(256);
        kernels->dequant_row(stored.m, 0, row.data());
        for (uint32_t i = 0; i < 256; ++i) REQUIRE(row[i] == static_cast<float>(stored.value[i]));
      }
    }
}

TEST_CASE("so do codes less zeros of eight rows in a word") {
  Random random;
  const quant::Format& format = quant::find_format("asymmetric4");
  for (const uint32_t in : {32, 544, 2880})
    for (DType dtype : {DType::f32, DType::bf16}) {
      const Stored stored({19, in, &format, 32, dtype}, random);
      REQUIRE(stored.biases.size() == 3 * in / 32 * 4);
      for (const Kernels* kernels : available_kernels()) {
        CAPTURE(kernels->name);
        for (const uint32_t of : {0, 7, 18}) {
          std::vector<float> row(in);
          kernels->dequant_row(stored.m, of, row.data());
          for (uint32_t i = 0; i < in; ++i)
            REQUIRE(row[i] == doctest::Approx(stored.value[of * in + i]).epsilon(1e-5));
        }
        for (Precision precision : kPrecisions)
          check(*kernels, stored, precision, activations(in == 544 ? 17 : 1, in, random));
      }
    }
}

TEST_CASE("so do floats of 4 bits under scales of 8") {
  Random random;
  for (const char* name : {"nvfp4_planes", "nvfp4_tensor"})
    for (const uint32_t in : {16, 272, 2880}) {
      const quant::Format& format = quant::find_format(name);
      const Stored stored({17, in, &format, 16, DType::f32}, random);
      for (const Kernels* kernels : available_kernels()) {
        CAPTURE(kernels->name);
        std::vector<float> row(in);
        kernels->dequant_row(stored.m, 16, row.data());
        for (uint32_t i = 0; i < in; ++i) {
          const double value = stored.value[16 * uint64_t(in) + i];
          if (format.levels.bits)  // scales are products, which are rounded
            REQUIRE(std::fabs(row[i] - value) <= 2e-7 * std::fabs(value));
          else
            REQUIRE(row[i] == static_cast<float>(value));
        }
        for (Precision precision : kPrecisions)
          check(*kernels, stored, precision, activations(in == 272 ? 17 : 1, in, random));
      }
    }
}

TEST_CASE("so do codes of floats under exponents, the least of which is no normal number") {
  Random random;
  const quant::Format& format = quant::find_format("mxfp4_planes");
  for (const uint32_t in : {32, 544, 2880}) {
    Stored stored({17, in, &format, 32, DType::f32}, random);
    for (const Kernels* kernels : available_kernels()) {
      CAPTURE(kernels->name);
      for (Precision precision : kPrecisions)
        check(*kernels, stored, precision, activations(in == 544 ? 17 : 1, in, random));
    }
    for (const uint32_t exponent : {0, 1, 2, 127, 253, 254}) {
      stored.scales[0] = std::byte(exponent);
      for (const Kernels* kernels : available_kernels()) {
        CAPTURE(kernels->name);
        std::vector<float> row(in);
        kernels->dequant_row(stored.m, 0, row.data());
        for (uint32_t i = 0; i < 32; ++i) {
          const int code = int(stored.weight[i / 2]) >> (i % 2 ? 4 : 0) & 15;
          const double value = std::ldexp(int(format.table[code]) - 12, int(exponent) - 128);
          REQUIRE(row[i] == static_cast<float>(value));
        }
      }
    }
  }
}

// Sums that are kept in few bits for some steps: here every one is as large as it can be.
TEST_CASE("the largest codes meet the largest digits in all columns") {
  Random random;
  constexpr double kLow2 = 127 * 256 - 128;         // digits 127, -128
  constexpr double kLow3 = kLow2 * 256 - 128;       // digits 127, -128, -128
  constexpr double kTop2 = 32639, kTop3 = 8355684;  // of a group: prepare.inc
  for (uint32_t bits : {2, 3, 4, 5, 6, 8})
    for (uint32_t group : {32, 64, 128}) {
      const uint32_t in = 17 * group;
      Stored stored(17, in, bits, group, DType::f32, random);
      std::fill(stored.weight.begin(), stored.weight.end(), std::byte{255});
      for (size_t i = 0; i < stored.value.size(); ++i) {
        float scale, bias;
        std::memcpy(&scale, stored.m.planes[quant::kScales] + i / group * 4, 4);
        std::memcpy(&bias, stored.m.planes[quant::kSupers] + i / group * 4, 4);
        stored.value[i] = double(scale) * ((1 << bits) - 1) + double(bias);
      }
      std::vector<float> x;
      for (double others : {1.0, -1.0, kLow2 / kTop2, -kLow2 / kTop2, kLow3 / kTop3})
        for (uint32_t i = 0; i < in; ++i)  // the first of a group sets the step
          x.push_back(static_cast<float>(i % group == 0 ? 1.0 : others));
      for (const Kernels* kernels : available_kernels()) {
        CAPTURE(kernels->name);
        for (Precision precision : kPrecisions) check(*kernels, stored, precision, x);
      }
    }
}

TEST_CASE("a token has the same bits alone and among others, a row in any range") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (Precision precision : kPrecisions)
      for (uint32_t bits : {0, 2, 4, 5, 8}) {
        const Stored stored(19, 192, bits, 64, DType::bf16, random);
        const std::vector<float> x = activations(8, 192, random);
        const std::vector<float> all = Rows(*kernels, stored.m, precision, x).matvec();
        for (uint32_t t = 0; t < 8; ++t) {
          const Rows alone(*kernels, stored.m, precision,
                           {x.begin() + t * 192, x.begin() + (t + 1) * 192});
          const std::vector<float> y = alone.outputs([&](float* const* rows) {
            for (uint32_t begin : {0, 1, 6, 13}) {
              const uint32_t end = begin == 0 ? 1 : begin == 1 ? 6 : begin == 6 ? 13 : 19;
              kernels->matvec(stored.m, alone.format, begin, end, alone.records.data(), rows, 1);
            }
          });
          REQUIRE(std::memcmp(y.data(), all.data() + t * 19, 19 * 4) == 0);
        }
      }
}

TEST_CASE("instruction sets with fused multiply-add agree to the bit on quantised weights") {
  Random random;
  for (Precision precision : kPrecisions)
    for (uint32_t bits : {2, 3, 4, 5, 6, 8})
      for (uint32_t group : {32, 64, 128}) {
        const Stored stored(7, group * 5, bits, group, DType::bf16, random);
        const std::vector<float> x = activations(3, group * 5, random);
        std::vector<float> first;
        for (const Kernels* kernels : available_kernels()) {
          if (std::string(kernels->name) == "portable") continue;
          const std::vector<float> y = Rows(*kernels, stored.m, precision, x).matvec();
          if (first.empty()) first = y;
          REQUIRE(std::memcmp(y.data(), first.data(), y.size() * 4) == 0);
        }
      }
}

TEST_CASE("rows outside the range are left alone") {
  Random random;
  const Stored stored(40, 128, 4, 64, DType::bf16, random);
  const std::vector<float> x = activations(20, 128, random);
  for (const Kernels* kernels : available_kernels()) {
    const Rows rows(*kernels, stored.m, Precision::bfloat16, x);
    const std::vector<float> y = rows.outputs([&](float* const* to) {
      kernels->matvec(stored.m, rows.format, 3, 7, rows.records.data(), to, rows.n);
    });
    for (uint32_t t = 0; t < rows.n; ++t)
      for (uint32_t row = 0; row < 40; ++row)
        REQUIRE(std::isnan(y[t * 40 + row]) == (row < 3 || row >= 7));
  }
}

TEST_CASE("NaN and infinity in the activations reach the product; tiny and zero ones do not") {
  Random random;
  for (const Kernels* kernels : available_kernels())
    for (Precision precision : kPrecisions)
      for (uint32_t bits : {0, 4})
        for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
          const Stored stored(4, 128, bits, 64, DType::bf16, random);
          std::vector<float> x = activations(1, 128, random);
          x[70] = bad;
          for (float y : Rows(*kernels, stored.m, precision, x).matvec())
            REQUIRE(!std::isfinite(y));
          for (float value : {0.0f, 1e-42f, -1e-38f, 3e-31f}) {
            x.assign(128, value);
            for (float y : Rows(*kernels, stored.m, precision, x).matvec())
              REQUIRE(std::fabs(y) <= 128 * 20 * std::fabs(value));
          }
        }
}

TEST_CASE("no byte behind the weights is read") {
  const size_t page = sysconf(_SC_PAGESIZE);
  std::byte* pages = static_cast<std::byte*>(
      mmap(nullptr, 9 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(pages != MAP_FAILED);
  for (int i : {2, 5, 8}) REQUIRE(mprotect(pages + i * page, page, PROT_NONE) == 0);
  const auto before_hole = [&](int hole, const std::vector<std::byte>& bytes) {
    std::byte* to = pages + hole * page - bytes.size();
    std::copy(bytes.begin(), bytes.end(), to);
    return to;
  };
  Random random;
  const auto check_before_holes = [&](Stored stored) {
    const uint32_t in = stored.m.shape.in;
    stored.m.planes[quant::kCodes] = before_hole(2, stored.weight);
    stored.m.planes[quant::kScales] = before_hole(5, stored.scales);
    if (stored.m.planes[quant::kSupers])
      stored.m.planes[quant::kSupers] = before_hole(8, stored.biases);
    for (const Kernels* kernels : available_kernels()) {
      CAPTURE(kernels->name);
      for (Precision precision : kPrecisions)
        check(*kernels, stored, precision, activations(2, in, random));
      std::vector<float> row(in);
      kernels->dequant_row(stored.m, 2, row.data());
      for (uint32_t i = 0; i < in; ++i)
        REQUIRE(row[i] == doctest::Approx(stored.value[2 * in + i]).epsilon(1e-5));
    }
  };
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (uint32_t bits : {0, 2, 3, 4, 5, 6, 8})
      for (uint32_t in : {32, 96}) check_before_holes({3, in, bits, 32, dtype, random});
  for (const char* name : {"mxfp4_planes", "nvfp4_planes", "nvfp4_tensor", "mxfp8", "fp8_rows",
                           "fp8_tensor", "asymmetric4"})
    for (uint32_t in : {32, 96}) {
      const quant::Format& format = quant::find_format(name);
      check_before_holes({{3, in, &format, format.groups[0], DType::f32}, random});
    }
  for (const quant::Levels& levels : test::kLevels)
    for (const uint32_t bits : {2, 3, 4, 5, 6, 8})
      for (const uint32_t group : {16, 32}) {
        const quant::Format format = test::two_levels(bits, levels);
        check_before_holes({{3, 256, &format, group, DType::f16}, random});
      }
  munmap(pages, 9 * page);
}
