#include <doctest/doctest.h>

#include <cstring>

#include "faulty_file.h"
#include "store/read_plan.h"

using namespace moeflux;
using store::kSlotAlignment;
using store::LayerExperts;
using store::Part;
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

}  // namespace

TEST_CASE("a packed record is one read of the whole slot") {
  const auto layer = records(kSlotAlignment, kRecord, 1024);
  const auto reads = plan_reads(layer, files(kSlotAlignment + kExperts * kRecord));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord);
  CHECK(reads[0].slot_offset == 0);
  CHECK(reads[0].offset == layer.parts[0].offset);
}

TEST_CASE("unaligned records and short files are not read past their parts") {
  auto reads = plan_reads(records(7, kRecord, 1024), files(1 << 30));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord - 1100 + 1024);
  reads = plan_reads(records(kSlotAlignment, kRecord, 1024),
                     files(kSlotAlignment + kExperts * kRecord - 1));
  REQUIRE(reads.size() == 1);
  CHECK(reads[0].nbytes == kRecord - 1100 + 1024);
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

TEST_CASE("the store brings a packed expert by one direct read into its slot") {
  const auto layer = records(kSlotAlignment, kRecord, 1024);
  const auto bytes = noise(kSlotAlignment + kExperts * kRecord);
  const auto file = std::make_shared<FaultyFile>(bytes, FaultyFile::Faults{}, 4096);
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  store::ExpertStore store({file}, {layer}, arena, {3, 5, 2});
  for (uint32_t expert = 0; expert < kExperts; ++expert) {
    auto pin = store.try_acquire(0, expert, store::Use::decode);
    REQUIRE(pin);
    while (!pin->ready()) std::this_thread::yield();
    CHECK(file->reads() == expert + 1);
    for (const Part& part : layer.parts)
      CHECK(std::memcmp(pin->data() + part.slot_offset, bytes.data() + part.offset[expert],
                        part.nbytes) == 0);
  }
  CHECK(store.stats().bytes_read == kExperts * kRecord);
}
