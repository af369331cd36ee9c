#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <thread>

#include "faulty_file.h"
#include "store/expert_store.h"
#include "store/read_plan.h"

using namespace moeflux;
using store::kPartAlignment;
using store::kSlotAlignment;
using store::LayerExperts;
using store::Part;
using store::place_parts;
using store::plan_reads;

namespace {

constexpr uint32_t kExperts = 5;
constexpr uint64_t kRecord = 21 * kSlotAlignment;  // more than a bounce buffer

// Two parts an expert, in records of `record` bytes from `begin`; the second at `second`.
LayerExperts records(uint64_t begin, uint64_t record, uint64_t second) {
  LayerExperts layer;
  layer.n_experts = kExperts;
  layer.parts = {{1000, 0}, {kRecord - 1100, 1024}};
  for (uint64_t expert = 0; expert < kExperts; ++expert) {
    layer.parts[0].file.push_back(0);
    layer.parts[0].offset.push_back(begin + expert * record);
    layer.parts[1].file.push_back(0);
    layer.parts[1].offset.push_back(begin + expert * record + second);
  }
  return layer;
}

std::vector<std::shared_ptr<io::File>> files(uint64_t size) {
  return {io::open_hole(size, "f")};
}

// Every expert through a store of few slots; `reads` of the file an expert, where not 0.
void check_store(const store::LayerExperts& layer, const std::shared_ptr<FaultyFile>& file,
                 const std::vector<std::byte>& bytes, int64_t reads) {
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  store::ExpertStore store({file}, {layer}, arena, {3, 3, 2});
  for (uint32_t expert = 0; expert < kExperts; ++expert) {
    auto pin = store.try_acquire(0, expert, store::Use::decode);
    REQUIRE(pin);
    while (!pin->ready()) std::this_thread::yield();
    if (reads != 0) CHECK(file->reads() == reads * (expert + 1));
    for (const Part& part : layer.parts)
      REQUIRE(std::memcmp(pin->data() + part.slot_offset, bytes.data() + part.offset[expert],
                          part.nbytes) == 0);
  }
}

}  // namespace

TEST_CASE("a packed record is one read of the whole slot") {
  const auto layer = records(kSlotAlignment, kRecord, 1024);
  const auto reads = plan_reads(layer, files(kSlotAlignment + kExperts * kRecord));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord);
  CHECK(reads[0].slot_offset == 0);
  CHECK(reads[0].offset == layer.parts[0].offset);
}

TEST_CASE("unaligned records are not read past their parts, no file past its end") {
  auto reads = plan_reads(records(7, kRecord, 1024), files(1 << 30));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord - 1100 + 1024);
  reads = plan_reads(records(kSlotAlignment, kRecord, 1024),
                     files(kSlotAlignment + kExperts * kRecord - 1));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord - 1);
}

TEST_CASE("parts at another distance than in the slot stay reads of their own") {
  for (uint64_t second : {1000, 1088, 5000})
    CHECK(plan_reads(records(kSlotAlignment, kRecord, second), files(1 << 30)).size() == 2);
  auto layer = records(kSlotAlignment, kRecord, 1024);
  layer.parts[1].offset[3] += 64;  // one expert that lies otherwise is enough
  CHECK(plan_reads(layer, files(1 << 30)).size() == 2);
  layer = records(kSlotAlignment, kRecord, 1024);
  layer.parts[1].file[2] = 1;
  CHECK(plan_reads(layer, {files(1 << 30)[0], files(1 << 30)[0]}).size() == 2);
}

// Experts one after the other, part by part, from `begin` on: as a stacked tensor has them.
store::LayerExperts stacked(uint64_t begin, std::vector<uint64_t> sizes) {
  store::LayerExperts layer;
  layer.n_experts = kExperts;
  for (const uint64_t nbytes : sizes) {
    Part& part = layer.parts.emplace_back();
    part.nbytes = nbytes;
    for (uint32_t expert = 0; expert < kExperts; ++expert, begin += nbytes) {
      part.file.push_back(0);
      part.offset.push_back(begin);
    }
  }
  return layer;
}
constexpr uint64_t kLong = 50 * 4096;

std::vector<uint64_t> places(store::LayerExperts layer, uint64_t alignment) {
  place_parts(layer, alignment);
  std::vector<uint64_t> out;
  for (const Part& part : layer.parts) out.push_back(part.slot_offset);
  return out;
}

TEST_CASE("a long part keeps its place within a page, in pages of its own") {
  const auto layer = stacked(14, {kLong, 4096, kLong});
  CHECK(places(layer, 1) == std::vector<uint64_t>{14, kLong + 4096, kLong + 2 * 4096 + 14});
  // Compute that cannot read from there, and short parts: one after the other.
  CHECK(places(layer, 64) == std::vector<uint64_t>{0, kLong, kLong + 4096});
  CHECK(places(stacked(64, {kLong, 4096}), 64) == std::vector<uint64_t>{64, kLong + 4096});
  CHECK(places(stacked(14, {1000, 1000}), 1) == std::vector<uint64_t>{0, 1024});
  // Where experts begin at different places of a page there is no place for all.
  CHECK(places(stacked(14, {kLong + 8, 4096}), 1) ==
        std::vector<uint64_t>{0, base::round_up(kLong + 8, kPartAlignment)});
}

TEST_CASE("parts of a packed record stay at the distances of the file") {
  auto layer = records(kSlotAlignment, 64 * 4096, base::round_up(kLong, 64));
  layer.parts[0].nbytes = kLong;
  CHECK(places(layer, 1) == std::vector<uint64_t>{0, base::round_up(kLong, 64)});
}

TEST_CASE("long parts come by direct reads of whole pages, each piece by one") {
  auto layer = stacked(14, {kLong, 1000, kLong});
  place_parts(layer, 1);
  const auto bytes = noise(14 + kExperts * (2 * kLong + 1000) + 4096);
  const auto file = std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{}, 4096);
  const auto reads = plan_reads(layer, {file});
  REQUIRE(reads.size() == 3);
  CHECK(reads[0].slot_offset == 0);
  CHECK(reads[0].nbytes == kLong + 4096);
  CHECK(reads[0].offset[1] == kLong);
  CHECK(reads[1].nbytes == 1000);
  check_store(layer, file, bytes, 3);
}

TEST_CASE("any layout: parts and reads stay apart and bring what the file has") {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    const auto below = [&](uint32_t n) { return random() % n; };
    auto layer = stacked(0, {});
    uint64_t begin = below(9000);
    const uint32_t step = 1u << below(13);
    for (uint32_t i = 0, n = 1 + below(5); i < n; ++i) {
      uint64_t nbytes = below(2) ? (128 << 10) + below(100) * step : 1 + below(70) * step;
      const auto more = stacked(begin, {nbytes});
      layer.parts.push_back(more.parts[0]);
      begin += kExperts * nbytes + (below(2) ? below(5000) : 0);
    }
    place_parts(layer, below(2) ? 1 : 64);
    const auto bytes = noise(begin + (below(2) ? 0 : below(5000)));
    const auto file = std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{.short_reads = true},
                                                   below(2) ? 4096 : 512);
    uint64_t end = 0;
    for (const Part& part : layer.parts) {
      REQUIRE(part.slot_offset >= end);
      end = part.slot_offset + part.nbytes;
    }
    end = 0;
    for (const Part& read : plan_reads(layer, {file})) {
      REQUIRE(read.slot_offset >= end);
      end = read.slot_offset + read.nbytes;
      REQUIRE(end <= layer.slot_bytes());
      for (const uint64_t offset : read.offset) REQUIRE(offset + read.nbytes <= bytes.size());
    }
    check_store(layer, file, bytes, 0);
  }
}

TEST_CASE("the store brings a packed expert by one direct read into its slot") {
  const auto layer = records(kSlotAlignment, kRecord, 1024);
  const auto bytes = noise(kSlotAlignment + kExperts * kRecord);
  const auto file = std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{}, 4096);
  check_store(layer, file, bytes, 1);
}
