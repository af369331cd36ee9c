// Vectors of hostile sizes cost neither memory nor reads before they are refused.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "faulty_file.h"
#include "model/weight_reader.h"

using namespace moeflux;
using model::WeightReader;

namespace {

constexpr uint32_t kCount = 3 * 4096 + 5;  // numbers: several pieces, the last one short

struct Reader {
  explicit Reader(std::shared_ptr<io::File> file, uint64_t budget = 64 << 20)
      : account(budget), arena(account), reader({file}, arena, weights) {}
  base::Account account;
  base::HeapArena arena;
  model::Weights weights;
  WeightReader reader;
};

model::TensorRef tensor(uint64_t offset, uint64_t count) {
  return {"norm", 0, offset, count * 2, quant::DType::bf16};
}

float bf16(const std::byte* two) {
  uint16_t word;
  std::memcpy(&word, two, 2);
  const uint32_t bits = uint32_t(word) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace

TEST_CASE("a vector of several pieces has every number, at any offset, and its constant added") {
  std::vector<std::byte> bytes = noise(2 * kCount + 7);
  for (uint64_t i = 8; i < bytes.size(); i += 2) bytes[i] &= std::byte(0xbf);  // no NaN
  for (const size_t alignment : {1, 512}) {
    Reader r(
        std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{.short_reads = true}, alignment));
    const float* values = r.reader.vector({tensor(7, kCount), kCount, 1});
    for (uint32_t i = 0; i < kCount; ++i) REQUIRE(values[i] == bf16(&bytes[7 + 2 * i]) + 1);
  }
}

TEST_CASE("NaN in any piece is refused") {
  for (const uint32_t at : {0u, 4096u, kCount - 1}) {
    std::vector<std::byte> bytes(2 * kCount);
    bytes[2 * at] = bytes[2 * at + 1] = std::byte(0xff);
    Reader r(io::open_memory(bytes, "nan"));
    CHECK_THROWS_AS(r.reader.vector({tensor(0, kCount), kCount, 0}), FormatError);
  }
}

TEST_CASE("a vector that the budget does not hold is refused before a byte is read") {
  const auto file =
      std::make_shared<FaultyFile>(noise(1 << 20), FaultyFile::Faults{.pretend_size = 64 << 20});
  Reader r(file, 8 << 20);
  CHECK_THROWS_AS(r.reader.vector({tensor(0, 1 << 24), 1 << 24, 0}), MemoryBudgetError);
  CHECK(file->reads() == 0);
}

TEST_CASE("a load from holes touches no page, whatever is added, and checks ranges") {
  constexpr uint32_t kLarge = 1 << 20;
  Reader r(io::open_hole(2 * kLarge, "plan"));
  const float* values = r.reader.vector({tensor(0, kLarge), kLarge, 1});
  std::vector<unsigned char> resident(kLarge * 4 / base::kPageBytes);
  REQUIRE(mincore(const_cast<float*>(values), kLarge * 4, resident.data()) == 0);
  CHECK(std::count_if(resident.begin(), resident.end(), [](auto page) { return page & 1; }) == 0);
  CHECK_THROWS_AS(r.reader.vector({tensor(2, kLarge), kLarge, 0}), IoError);
}

TEST_CASE(
    "any rows go with the one scale of a matrix, and not with zeros of eight rows in a word") {
  const std::vector<std::byte> bytes(8 * 64);
  const auto pick = [&](const char* format, uint32_t group, uint64_t begin, uint64_t count) {
    model::MatrixSource source{{8, 64, &quant::find_format(format), group, quant::DType::f32}};
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (source.shape.format->in_file(plane))
        source.planes[plane] = {"picked", 0, 0, source.shape.file_bytes(plane)};
    source.rows.emplace_back(uint32_t(begin), uint32_t(count));
    Reader r(io::open_memory(bytes, "matrix"));
    const uint32_t rows = r.reader.matrix(source).out();
    r.reader.finish();
    return rows;
  };
  CHECK(pick("fp8_tensor", quant::kAll, 2, 2) == 2);
  CHECK_THROWS_AS(pick("fp8_tensor", quant::kAll, 7, 2), FormatError);
  CHECK(pick("asymmetric4", 32, 0, 8) == 8);
  CHECK_THROWS_AS(pick("asymmetric4", 32, 2, 2), FormatError);
}
