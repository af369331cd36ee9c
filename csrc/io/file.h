// File: bytes at an offset, from many threads at once. A seam: posix, a hole, and what tests need.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace moeflux::io {

class File {
 public:
  virtual ~File() = default;
  // Fills `out` with up to out.size() bytes from `offset`; returns how many it got (0 only at the
  // end of the file). Throws IoError. When alignment() > 1, offset, size and address must be
  // multiples of it.
  virtual size_t read_at(uint64_t offset, std::span<std::byte> out) = 0;
  virtual uint64_t size() const = 0;
  virtual size_t alignment() const = 0;  // 1: buffered
  virtual const std::string& path() const = 0;
  virtual bool is_hole() const { return false; }  // open_hole()'s
};

// Opens a regular file for direct reads (O_DIRECT, F_NOCACHE), or buffered ones where the file
// system refuses or `direct` is false; alignment() tells which. Throws IoError.
std::shared_ptr<File> open_posix(const std::string& path, bool direct);

// A file of zeros that costs nothing to read: `out` must be zero already and is left untouched, so
// that not even a page of it is taken. The planner loads a model from it to learn what it holds.
std::shared_ptr<File> open_hole(uint64_t size, std::string name);

inline constexpr size_t kBounceBytes = 1 << 18;  // a reader's aligned staging buffer
// What a reader takes at once of a longer range: long enough for a disk to be at its rate, short
// enough for several readers to share an expert or a tensor (benchmarks/notebook.md).
inline constexpr uint64_t kPieceBytes = 1 << 20;

// What a reader takes at once of units of so many bytes.
constexpr uint64_t piece_bytes(uint64_t unit) {
  return kPieceBytes - kPieceBytes % unit;
}

// Reads exactly out.size() bytes at any offset to any address: straight where offset and address
// are aligned, else through `bounce` (page-aligned, kBounceBytes). Throws IoError on a failure or a
// short file.
void read_exact(File& file, uint64_t offset, std::span<std::byte> out, std::byte* bounce);

// Reads nbytes at any offset and shows them in order, some whole units of `unit` bytes at a time,
// as they lie in `bounce`; `begin` counts from `offset`. Of a hole nothing is shown. Throws as
// read_exact. REQUIRES: a unit fits the bounce beside a block of the disk.
using Units = std::function<void(uint64_t begin, std::span<const std::byte> units)>;
void read_units(File& file, uint64_t offset, uint64_t nbytes, uint64_t unit, std::byte* bounce,
                const Units& show);

}  // namespace moeflux::io
