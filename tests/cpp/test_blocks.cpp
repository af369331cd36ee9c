// Matrices whose file has blocks: readers of a store and of a load make planes of them.
#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "faulty_file.h"
#include "model/weight_reader.h"
#include "other_formats.h"
#include "store/read_plan.h"

using namespace moeflux;
using quant::kCodes, quant::kScales, quant::kSupers;

namespace {

const quant::Format kBlocks = test::in_blocks();

quant::Shape shape_of(uint32_t out, uint32_t in) {
  return {out, in, &kBlocks, 16, quant::DType::f16};
}

// Noise with finite scales.
std::vector<std::byte> blocks_of(const quant::Shape& shape) {
  std::vector<std::byte> bytes = noise(shape.file_bytes(kCodes), shape.out);
  for (size_t i = 0; i < bytes.size(); i += test::kBlockBytes)
    for (const size_t high : {1, 3}) bytes[i + high] &= std::byte{0xbb};
  return bytes;
}

// Its planes as the format itself makes them, in one go.
std::vector<std::byte> planes_of(const quant::Shape& shape, const std::vector<std::byte>& blocks) {
  std::vector<std::byte> planes(quant::place_planes(shape, 64).back());
  quant::transcode(shape, blocks, 0, planes.data(), 64);
  return planes;
}

bool equal(const std::byte* found, std::span<const std::byte> expected) {
  return std::memcmp(found, expected.data(), expected.size()) == 0;
}

}  // namespace

TEST_CASE("a slot has the planes of a part in blocks, and its neighbours' bytes") {
  constexpr uint32_t kExperts = 4;
  const quant::Shape small = shape_of(5, 64), large = shape_of(20'000, 96);  // pieces; 1.2 MB
  store::LayerExperts layer;
  layer.n_experts = kExperts;
  std::vector<std::byte> bytes = noise(7);
  for (const quant::Shape& shape : {small, large, small}) {
    layer.parts.push_back({999, 0, {}, {}});
    layer.parts.push_back({shape.file_bytes(kCodes), 0, {}, {}, shape});
  }
  for (store::Part& part : layer.parts)
    for (uint32_t expert = 0; expert < kExperts; ++expert) {
      part.file.push_back(0);
      part.offset.push_back(bytes.size());
      const auto more = part.blocks ? blocks_of(*part.blocks) : noise(999, expert);
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
  store::place_parts(layer, 1);
  for (const size_t alignment : {1, 512})
    for (const bool short_reads : {false, true}) {
      const auto file = std::make_shared<FaultyFile>(
          bytes, FaultyFile::Faults{.short_reads = short_reads}, alignment);
      const store::Catalogue catalogue({file}, {layer});
      CHECK(catalogue.pieces(0).size() == 7);
      CHECK(store::Catalogue::max_pieces(layer) >= 7);
      base::Account account(64 << 20);
      base::HeapArena arena(account);
      store::ExpertStore store({file}, {layer}, arena, {3, 3, 4});
      for (uint32_t expert = 0; expert < kExperts; ++expert) {
        auto pin = store.try_acquire(0, expert, store::Use::decode);
        REQUIRE(pin);
        while (!pin->ready()) std::this_thread::yield();
        for (const store::Part& part : layer.parts) {
          const std::span<const std::byte> range(&bytes[part.offset[expert]], part.nbytes);
          const std::vector<std::byte> raw(range.begin(), range.end());
          CHECK(equal(pin->data() + part.slot_offset,
                      part.blocks ? planes_of(*part.blocks, raw) : raw));
        }
      }
      CHECK(store.stats().bytes_read == kExperts * (3 * 999 + 2 * 10 * 20 + 60'000 * 20));
    }
}

TEST_CASE("a part in blocks is aligned and read on its own, however its neighbours lie") {
  // As in a record: 1024 bytes, blocks, 1024 bytes, at the distances that the slot has.
  const quant::Shape small = shape_of(5, 64), large = shape_of(20'000, 96);
  for (const quant::Shape& shape : {small, large}) {
    store::LayerExperts layer{1, {}};
    const std::vector<std::byte> blocks = blocks_of(shape);
    const uint64_t behind = 1024 + base::round_up(quant::place_planes(shape, 64).back(), 64);
    std::vector<std::byte> bytes = noise(13 + behind + 1024);
    std::copy(blocks.begin(), blocks.end(), bytes.begin() + 13 + 1024);
    layer.parts = {{1024, 0, {0}, {13}},
                   {blocks.size(), 0, {0}, {13 + 1024}, shape},
                   {1024, 0, {0}, {13 + behind}}};
    store::place_parts(layer, 1);
    CHECK(layer.parts[1].slot_offset % store::kPartAlignment == 0);
    const auto file = io::open_memory(bytes, "record");
    CHECK(store::plan_reads(layer, {file}).size() == 3);
    store::LayerExperts paged{1, {{320, 0, {0}, {0}, shape_of(8, 64)}}};  // a whole page could be
    store::place_parts(paged, 1);
    CHECK(store::plan_reads(paged, {file})[0].nbytes == 320);
    base::Account account(64 << 20);
    base::HeapArena arena(account);
    store::ExpertStore store({file}, {layer}, arena, {1, 1, 1});
    auto pin = store.try_acquire(0, 0, store::Use::decode);
    while (!pin->ready()) std::this_thread::yield();
    CHECK(equal(pin->data() + layer.parts[1].slot_offset, planes_of(shape, blocks)));
    for (const size_t part : {0, 2})
      CHECK(equal(pin->data() + layer.parts[part].slot_offset,
                  std::span(bytes).subspan(layer.parts[part].offset[0], 1024)));
  }
}

TEST_CASE("a file that ends within blocks is an error of the expert") {
  const quant::Shape shape = shape_of(64, 64);
  const std::vector<std::byte> bytes = blocks_of(shape);
  store::LayerExperts layer{1, {{bytes.size() + 20, 0, {0}, {0}, shape_of(64, 64)}}};
  store::place_parts(layer, 1);
  const auto file = std::make_shared<FaultyFile>(
      bytes, FaultyFile::Faults{.pretend_size = bytes.size() + 20}, 512);
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  store::ExpertStore store({file}, {layer}, arena, {1, 1, 1});
  auto pin = store.try_acquire(0, 0, store::Use::decode);
  const auto wait = [&] {
    while (!pin->ready()) std::this_thread::yield();
  };
  CHECK_THROWS_AS(wait(), IoError);
}

TEST_CASE("experts in blocks are placed as planes, and refused where bytes are missing") {
  ops::GatedFfn ffn;
  ffn.gate.weight.shape =
      ffn.up.weight.shape = {64, 96, &quant::find_format("affine4"), 32, quant::DType::bf16};
  ffn.down.weight.shape = shape_of(96, 64);
  store::LayerExperts layer{1, {}};
  uint64_t at = 0;
  for (const uint64_t nbytes : {3072, 384, 384, 3072, 384, 384, 96 * 2 * 20})
    layer.parts.push_back({nbytes, 0, {0}, {std::exchange(at, at + 2 * nbytes)}});
  model::ExpertLayout layout{ffn};
  model::place_experts(layer, 1, layout);
  const store::Part& down = layer.parts.back();
  REQUIRE(down.blocks);
  CHECK(layout.offsets[2] == quant::Planes<uint64_t>{down.slot_offset, down.slot_offset + 3072, 0});
  CHECK(layer.slot_bytes() == store::kSlotAlignment);
  const std::vector<std::byte> slot(layer.slot_bytes());
  const quant::Matrix matrix = layout.at(slot.data(), 0).down.weight;
  CHECK(matrix.planes[kSupers] == nullptr);
  --layer.parts.back().nbytes;
  CHECK_THROWS_WITH_AS(model::place_experts(layer, 1, layout),
                       doctest::Contains("expected 3840 bytes an expert, found 3839"), FormatError);
}

TEST_CASE("a resident matrix in blocks has planes of its rows as they are picked") {
  const quant::Shape shape = shape_of(30'000, 64);
  const std::vector<std::byte> blocks = blocks_of(shape), all = planes_of(shape, blocks);
  std::vector<std::byte> bytes = noise(13);
  bytes.insert(bytes.end(), blocks.begin(), blocks.end());
  model::MatrixSource source{shape, {}, {}, {}};
  source.planes[kCodes] = {"w", 0, 13, blocks.size(), {}};
  for (const auto& rows : {model::MatrixSource{}.rows, {{7, 1}, {1000, 29'000}, {3, 4}}}) {
    source.rows = rows;
    base::Account account(64 << 20);
    base::HeapArena arena(account);
    model::Weights weights;
    const uint64_t n = source.n_rows();
    {
      model::WeightReader reader(
          {std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{.short_reads = true}, 512)},
          arena, weights);
      const quant::Matrix m = reader.matrix(source).weight;
      reader.finish();
      CHECK(m.shape.out == n);
      auto ranges = rows;
      if (ranges.empty()) ranges.emplace_back(0, shape.out);
      uint64_t row = 0;
      for (const auto& [begin, count] : ranges) {
        CHECK(equal(m.planes[kCodes] + row * 32, std::span(all).subspan(begin * 32, count * 32)));
        CHECK(equal(m.planes[kScales] + row * 8,
                    std::span(all).subspan(30'000 * 32 + begin * 8, count * 8)));
        row += count;
      }
    }
    CHECK(account.live_bytes() == arena.booked_bytes(base::round_up(n * 32, 64) + n * 8));
  }
}

TEST_CASE("blocks that are too few, or whose scales are no numbers, are refused by name") {
  const quant::Shape shape = shape_of(64, 64);
  std::vector<std::byte> bytes = blocks_of(shape);
  bytes[20 * 100 + 3] = std::byte{0x7c};
  bytes[20 * 100 + 2] = std::byte{0};
  model::MatrixSource source{shape, {}, {}, {}};
  source.planes[kCodes] = {"w", 0, 0, bytes.size(), {}};
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  model::Weights weights;
  const auto read = [&] {
    model::WeightReader reader({io::open_memory(bytes, "file")}, arena, weights);
    reader.matrix(source);
    reader.finish();
  };
  CHECK_THROWS_WITH_AS(read(), doctest::Contains("infinity in w (file)"), FormatError);
  --source.planes[kCodes]->nbytes;
  CHECK_THROWS_WITH_AS(read(), doctest::Contains("expected 2560 bytes, found 2559 (tensor w)"),
                       FormatError);
}
