#include "io/file.h"

#include <algorithm>
#include <cstring>

#include "base/arena.h"
#include "base/error.h"

namespace moeflux::io {

namespace {

class HoleFile final : public File {
 public:
  HoleFile(uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}
  size_t read_at(uint64_t offset, std::span<std::byte> out) override {
    return offset >= size_ ? 0 : std::min<uint64_t>(out.size(), size_ - offset);
  }
  uint64_t size() const override { return size_; }
  size_t alignment() const override { return 1; }
  const std::string& path() const override { return name_; }
  bool is_hole() const override { return true; }

 private:
  uint64_t size_;
  std::string name_;
};

[[noreturn]] void throw_short(const File& file, uint64_t offset, uint64_t expected) {
  throw IoError("[io::File] file ended early: expected ", expected, " bytes at offset ", offset,
                ", file was opened with ", file.size(), " bytes (", file.path(), ")");
}

void require_range(const File& file, uint64_t offset, uint64_t nbytes) {
  if (offset > file.size() || nbytes > file.size() - offset) throw_short(file, offset, nbytes);
}

// Reads what follows `begin`, a multiple of the file's alignment, until `least` bytes of it are in
// `out`; returns how many there are.
uint64_t fill(File& file, uint64_t begin, uint64_t least, std::span<std::byte> out) {
  uint64_t have = 0;
  while (have < least) {
    const uint64_t at = have / file.alignment() * file.alignment();
    const size_t got = file.read_at(begin + at, out.subspan(at));
    if (at + got <= have) throw_short(file, begin + have, least - have);
    have = at + got;
  }
  return have;
}

}  // namespace

std::shared_ptr<File> open_hole(uint64_t size, std::string name) {
  return std::make_shared<HoleFile>(size, std::move(name));
}

void read_exact(File& file, uint64_t offset, std::span<std::byte> out, std::byte* bounce) {
  require_range(file, offset, out.size());
  const uint64_t alignment = file.alignment();
  size_t done = 0;
  while (done < out.size()) {
    const uint64_t at = offset + done;
    if (alignment == 1) {
      const size_t got = file.read_at(at, out.subspan(done));
      if (got == 0) throw_short(file, at, out.size() - done);
      done += got;
      continue;
    }
    std::byte* const to = out.data() + done;
    const size_t whole = (out.size() - done) / alignment * alignment;
    if (whole != 0 && at % alignment == 0 && reinterpret_cast<uintptr_t>(to) % alignment == 0) {
      const size_t got = file.read_at(at, {to, whole});  // nothing to stage
      if (got == 0) throw_short(file, at, out.size() - done);
      done += got;
      continue;
    }
    const uint64_t begin = at / alignment * alignment;
    const uint64_t skip = at - begin;
    const uint64_t wanted =
        std::min<uint64_t>(base::round_up(skip + out.size() - done, alignment), kBounceBytes);
    const size_t got = file.read_at(begin, {bounce, wanted});
    if (got <= skip) throw_short(file, at, out.size() - done);
    const size_t n = std::min<uint64_t>(got - skip, out.size() - done);
    std::memcpy(out.data() + done, bounce + skip, n);
    done += n;
  }
}

void read_units(File& file, uint64_t offset, uint64_t nbytes, uint64_t unit, std::byte* bounce,
                const Units& show) {
  require_range(file, offset, nbytes);
  if (file.is_hole()) return;
  for (uint64_t done = 0; done < nbytes;) {
    const uint64_t skip = (offset + done) % file.alignment(), left = nbytes - done;
    const uint64_t wanted =
        std::min<uint64_t>(base::round_up(skip + left, file.alignment()), kBounceBytes);
    const uint64_t have = fill(file, offset + done - skip, skip + unit, {bounce, wanted});
    const uint64_t shown = std::min(have - skip, left) / unit * unit;
    show(done, {bounce + skip, shown});
    done += shown;
  }
}

}  // namespace moeflux::io
