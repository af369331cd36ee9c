#include <doctest/doctest.h>

#include "faulty_file.h"
#include "io/read_rate.h"

namespace io = moeflux::io;

TEST_CASE("measured bytes are those that were read, each record whole") {
  constexpr uint64_t kRecord = 10'000;
  FaultyFile file(noise(5 * kRecord + 17), {.short_reads = true, .delay_us = 100}, 512);
  const io::ReadRate rate = io::measure_reads(file, kRecord, 3, 0.05);
  CHECK(rate.bytes >= 3 * kRecord);  // one a thread, however slow
  CHECK(rate.bytes % kRecord == 0);
  CHECK(rate.seconds >= 0.05);
  CHECK(static_cast<uint64_t>(file.reads()) >= 2 * (rate.bytes / kRecord));
}

TEST_CASE("an error of the file ends the measurement and is thrown") {
  FaultyFile file(noise(4096 * 8), {.fail_from = 5, .fail_count = 1}, 4096);
  CHECK_THROWS_AS(io::measure_reads(file, 4096, 2, 10), moeflux::IoError);
}

TEST_CASE("a file of less than a record and senseless numbers are refused") {
  FaultyFile file(noise(100), {});
  CHECK_THROWS_AS(io::measure_reads(file, 101, 1, 0.01), moeflux::FormatError);
  CHECK_THROWS_AS(io::measure_reads(file, 0, 1, 0.01), moeflux::FormatError);
  CHECK_THROWS_AS(io::measure_reads(file, 10, 0, 0.01), moeflux::FormatError);
  CHECK_THROWS_AS(io::measure_reads(file, 10, 1, -1), moeflux::FormatError);
}
