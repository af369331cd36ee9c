// Opening a file for reads that bypass the page cache: what every system does its own way.
#pragma once
#include <cstddef>
#include <string>

#include "base/arena.h"

namespace moeflux::io {

inline constexpr size_t kDirectAlignment = 4096;  // a block of the file systems in use

struct DirectFile {
  int fd = -1;           // negative: the system or this file refuses direct reads
  size_t alignment = 1;  // of offset, size and address of every read
};

// What a file system asks for, or 1 (buffered) where a reader could not keep to it: slots and
// staging buffers are aligned to pages, and no further.
constexpr size_t usable_alignment(size_t asked) {
  const bool fits = asked != 0 && (asked & (asked - 1)) == 0 && asked <= base::kPageBytes;
  return fits ? asked : 1;
}

DirectFile open_direct(const std::string& path, int flags);

}  // namespace moeflux::io
