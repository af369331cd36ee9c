#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "faulty_file.h"

namespace io = moeflux::io;

namespace {

struct Bounce {
  std::byte* data = static_cast<std::byte*>(std::aligned_alloc(4096, io::kBounceBytes));
  ~Bounce() { std::free(data); }
};

void check_reads(io::File& file, const std::vector<std::byte>& bytes) {
  Bounce bounce;
  for (uint64_t offset : {0, 1, 3, 511, 512, 4095, 4096, 5001})
    for (size_t n : {size_t(0), size_t(1), size_t(511), size_t(512), size_t(4097),
                     io::kBounceBytes - 1, io::kBounceBytes, io::kBounceBytes + 1}) {
      std::vector<std::byte> out(n + 2, std::byte{0xA5});
      io::read_exact(file, offset, {out.data() + 1, n}, bounce.data);
      REQUIRE(std::memcmp(out.data() + 1, bytes.data() + offset, n) == 0);
      REQUIRE(out.front() == std::byte{0xA5});
      REQUIRE(out.back() == std::byte{0xA5});
    }
  std::vector<std::byte> tail(7);
  io::read_exact(file, bytes.size() - 7, tail, bounce.data);
  CHECK(std::memcmp(tail.data(), bytes.data() + bytes.size() - 7, 7) == 0);
  CHECK_THROWS_AS(io::read_exact(file, bytes.size() - 6, tail, bounce.data), moeflux::IoError);
  CHECK_THROWS_AS(io::read_exact(file, UINT64_MAX - 3, tail, bounce.data), moeflux::IoError);
}

void check_units(io::File& file, const std::vector<std::byte>& bytes) {
  Bounce bounce;
  for (uint64_t offset : {0, 1, 511, 4095, 5001})
    for (uint64_t unit : {1, 18, 210, 4099})
      for (uint64_t n : {uint64_t(0), uint64_t(1), io::kBounceBytes / unit + 1}) {
        std::vector<std::byte> seen;
        io::read_units(file, offset, n * unit, unit, bounce.data,
                       [&](uint64_t begin, std::span<const std::byte> units) {
                         REQUIRE(begin == seen.size());
                         REQUIRE(!units.empty());
                         REQUIRE(units.size() % unit == 0);
                         seen.insert(seen.end(), units.begin(), units.end());
                       });
        REQUIRE(seen.size() == n * unit);
        REQUIRE(std::equal(seen.begin(), seen.end(), bytes.begin() + static_cast<long>(offset)));
      }
  const auto none = [](uint64_t, std::span<const std::byte>) {};
  CHECK_THROWS_AS(io::read_units(file, bytes.size() - 17, 18, 18, bounce.data, none),
                  moeflux::IoError);
  CHECK_THROWS_AS(io::read_units(file, UINT64_MAX - 3, 18, 18, bounce.data, none),
                  moeflux::IoError);
}

struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("moeflux-test-" + std::to_string(getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

TEST_CASE("exact reads at any offset and size, aligned or not, short reads or not") {
  const auto bytes = noise(io::kBounceBytes * 2 + 777);
  for (size_t alignment : {1, 512, 4096})
    for (bool short_reads : {false, true}) {
      FaultyFile file(bytes, {.short_reads = short_reads}, alignment);
      check_reads(file, bytes);
    }
}

TEST_CASE("a file that shrank after opening is an error, not zeros") {
  Bounce bounce;
  for (size_t alignment : {1, 512}) {
    FaultyFile file(noise(1000), {.pretend_size = 5000}, alignment);
    std::vector<std::byte> out(600);
    CHECK_THROWS_AS(io::read_exact(file, 900, out, bounce.data), moeflux::IoError);
  }
}

TEST_CASE("posix files read the same, direct and buffered") {
  Folder folder;
  const auto bytes = noise(io::kBounceBytes * 2 + 777);
  const std::string path = folder.path / "data";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (bool direct : {false, true}) {
    const auto file = io::open_posix(path, direct);
    CHECK(file->size() == bytes.size());
    if (!direct) CHECK(file->alignment() == 1);
    check_reads(*file, bytes);
    check_units(*file, bytes);
  }
}

TEST_CASE("units are shown whole and in order, however few bytes a read gives") {
  const auto bytes = noise(io::kBounceBytes + 30'000);
  for (const size_t alignment : {1, 512, 4096}) {
    FaultyFile file(bytes, {.short_reads = true}, alignment);
    check_units(file, bytes);
    FaultyFile shrunk(bytes, {.pretend_size = bytes.size() + 100}, alignment);
    Bounce bounce;
    CHECK_THROWS_AS(io::read_units(shrunk, bytes.size() - 17, 18, 18, bounce.data,
                                   [](uint64_t, std::span<const std::byte>) {}),
                    moeflux::IoError);
  }
  const auto hole = io::open_hole(100, "hole");
  io::read_units(*hole, 0, 100, 20, nullptr,
                 [](uint64_t, std::span<const std::byte>) { FAIL("nothing is there"); });
}

TEST_CASE("what is no regular file is refused without hanging") {
  Folder folder;
  const std::string fifo = folder.path / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_AS(io::open_posix(fifo, true), moeflux::IoError);
  CHECK_THROWS_AS(io::open_posix(folder.path, true), moeflux::IoError);
  try {
    io::open_posix(folder.path / "missing", false);
    FAIL("expected IoError");
  } catch (const moeflux::IoError& error) {
    CHECK(std::string(error.what()).find("missing") != std::string::npos);
  }
}

TEST_CASE("an aligned read of any size is one read, straight to where it belongs") {
  const size_t n = io::kBounceBytes * 3;
  const auto bytes = noise(n + 8192);
  FaultyFile file(bytes, {}, 4096);
  const std::unique_ptr<std::byte, void (*)(void*)> out(
      static_cast<std::byte*>(std::aligned_alloc(4096, n)), [](void* p) { std::free(p); });
  io::read_exact(file, 4096, {out.get(), n}, nullptr);  // no bounce buffer is there to be used
  CHECK(file.reads() == 1);
  CHECK(std::memcmp(out.get(), bytes.data() + 4096, n) == 0);
}

TEST_CASE("a hole reads as whatever is there and ends where it says") {
  const auto file = io::open_hole(100, "hole");
  std::vector<std::byte> out(100, std::byte{7});
  io::read_exact(*file, 0, out, nullptr);
  CHECK(out[99] == std::byte{7});
  CHECK_THROWS_AS(io::read_exact(*file, 1, out, nullptr), moeflux::IoError);
}
