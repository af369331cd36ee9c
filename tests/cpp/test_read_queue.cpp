#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <stdexcept>
#include <vector>

#include "base/arena.h"
#include "base/error.h"
#include "faulty_file.h"
#include "io/read_queue.h"

namespace io = moeflux::io;
using moeflux::base::Account;
using moeflux::base::HeapArena;

namespace {

constexpr size_t kMiB = 1 << 20;

struct Queue {
  explicit Queue(uint32_t threads = 3) : arena(account), reads(arena, threads) {}
  Account account{64 << 20};
  HeapArena arena;
  io::ReadQueue reads;
};

}  // namespace

TEST_CASE("a queue reads every byte of ranges at any offset, and books what it says") {
  const std::vector<std::byte> bytes = noise(5 * kMiB + 77);
  for (const size_t alignment : {size_t(1), size_t(512)}) {
    Queue queue;
    CHECK(queue.account.live_bytes() == io::ReadQueue::bytes(queue.arena, 3));
    const auto file = std::make_shared<FaultyFile>(
        bytes, FaultyFile::Faults{.short_reads = alignment == 1}, alignment);
    struct Range {
      uint64_t offset, nbytes;
    };
    const Range ranges[] = {{0, 1}, {7, 0}, {3, 3 * kMiB + 1}, {kMiB, kMiB}, {5 * kMiB + 70, 7}};
    std::vector<std::vector<std::byte>> out;
    for (const Range& range : ranges) out.emplace_back(range.nbytes, std::byte{0xA5});
    for (size_t i = 0; i < out.size(); ++i) queue.reads.add(file, ranges[i].offset, out[i]);
    queue.reads.finish();
    for (size_t i = 0; i < out.size(); ++i)
      CHECK(std::equal(out[i].begin(), out[i].end(), bytes.begin() + ranges[i].offset));
  }
}

TEST_CASE("a check sees every byte once, in whole words, and what it throws comes out at the end") {
  Queue queue;
  const auto file = io::open_memory(noise(3 * kMiB), "checked");
  std::vector<std::byte> out(3 * kMiB - 8);
  std::atomic<uint64_t> seen{0};
  queue.reads.add(file, 1, out, [&](std::span<const std::byte> piece) {
    CHECK((piece.data() - out.data()) % 8 == 0);
    seen += piece.size();
  });
  queue.reads.finish();
  CHECK(seen == out.size());
  const auto fail = [&] {  // add() tells as well, where a piece has failed before the last is added
    queue.reads.add(file, 0, out, [](auto) { throw std::runtime_error("no number"); });
    queue.reads.finish();
  };
  CHECK_THROWS_WITH(fail(), "no number");
}

TEST_CASE("of several errors the first that was asked for is told, whichever comes first") {
  const auto file = io::open_memory(noise(kMiB), "small");
  const auto slow = std::make_shared<FaultyFile>(noise(kMiB), FaultyFile::Faults{.delay_us = 2000});
  std::vector<std::byte> a(kMiB), b(kMiB);
  for (int round = 0; round < 20; ++round) {
    Queue queue;
    try {
      queue.reads.add(slow, 0, a, [](auto) { throw std::runtime_error("first"); });
      for (int i = 0; i < 40; ++i) queue.reads.add(file, 1, b);  // ends behind the file
      queue.reads.finish();
      FAIL("expected an error");
    } catch (const std::exception& error) {
      CHECK(std::string(error.what()) == "first");
    }
  }
}

TEST_CASE("behind an error nothing more is read") {
  Queue queue(1);
  const auto file = std::make_shared<FaultyFile>(
      noise(kMiB), FaultyFile::Faults{.fail_from = 0, .fail_count = 1, .gated = true});
  std::vector<std::byte> out(kMiB);
  for (int i = 0; i < 4; ++i) queue.reads.add(file, 0, out);
  file->allow(1000);
  CHECK_THROWS_AS(queue.reads.finish(), moeflux::IoError);
  CHECK_THROWS_AS(queue.reads.add(file, 0, out), moeflux::IoError);
  CHECK(file->reads() == 1);
}

TEST_CASE("a queue may go away with reads to do") {
  const auto slow = std::make_shared<FaultyFile>(noise(kMiB), FaultyFile::Faults{.delay_us = 300});
  std::vector<std::byte> out(8 * kMiB);
  for (int round = 0; round < 10; ++round) {
    Queue queue;
    for (uint64_t i = 0; i < 8; ++i)
      queue.reads.add(slow, 0, std::span(out).subspan(i * kMiB, kMiB));
  }
}
