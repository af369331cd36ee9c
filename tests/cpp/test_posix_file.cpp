// The real io::PosixFile over a pread that misbehaves. The linker puts __wrap_pread in its place
// (--wrap, see CMakeLists.txt).
#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/arena.h"
#include "base/error.h"
#include "base/memory.h"
#include "faulty_file.h"
#include "io/open_direct.h"

using namespace moeflux;

namespace {
thread_local int interrupts = 0;  // that many reads are interrupted first
thread_local bool io_error = false;
thread_local size_t most = 0;  // bytes of a read, when not 0
thread_local int calls = 0;
}  // namespace

extern "C" {
ssize_t __real_pread(int fd, void* out, size_t n, off_t offset);
ssize_t __wrap_pread(int fd, void* out, size_t n, off_t offset) {
  ++calls;
  if (interrupts > 0) {
    --interrupts;
    errno = EINTR;
    return -1;
  }
  if (io_error) {
    errno = EIO;
    return -1;
  }
  return __real_pread(fd, out, most ? std::min(n, most) : n, offset);
}
}

TEST_CASE("alignments beyond a page, and what is none, mean buffered reads") {
  for (size_t asked : {size_t{512}, size_t{4096}}) CHECK(io::usable_alignment(asked) == asked);
  for (size_t asked : {size_t{0}, size_t{1}, size_t{768}, size_t{8192}, size_t{65536}})
    CHECK(io::usable_alignment(asked) == 1);
}

TEST_CASE("interrupted, short and failing reads of the operating system") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("moeflux_pread_" + std::to_string(getpid())))
          .string();
  const std::vector<std::byte> bytes = noise(100000);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  base::Account account(1 << 20);
  base::HeapArena arena(account);
  const base::Memory bounce(arena, io::kBounceBytes, "bounce");
  for (const bool direct : {true, false}) {
    const auto file = io::open_posix(path, direct);
    std::vector<std::byte> out(70001);
    interrupts = 5;
    most = 8192;
    calls = 0;
    io::read_exact(*file, 12345, out, bounce.data());
    CHECK(interrupts == 0);
    CHECK(calls > 5 + 8);
    CHECK(std::memcmp(out.data(), bytes.data() + 12345, out.size()) == 0);
    most = 0;
    io_error = true;
    try {
      io::read_exact(*file, 12345, out, bounce.data());
      FAIL("expected an IoError");
    } catch (const IoError& error) {
      const std::string text = error.what();
      CHECK(text.find(path) != std::string::npos);
      CHECK(text.find(std::strerror(EIO)) != std::string::npos);
    }
    io_error = false;
    std::fill(out.begin(), out.end(), std::byte{0});
    io::read_exact(*file, 12345, out, bounce.data());
    CHECK(std::memcmp(out.data(), bytes.data() + 12345, out.size()) == 0);
  }
  std::filesystem::remove(path);
}
