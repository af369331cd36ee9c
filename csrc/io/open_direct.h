// Opening a file for reads that bypass the page cache: what every system does its own way.
#pragma once
#include <cstddef>
#include <string>

namespace moeflux::io {

inline constexpr size_t kDirectAlignment = 4096;  // a block of the file systems in use

struct DirectFile {
  int fd = -1;           // negative: the system or this file refuses direct reads
  size_t alignment = 1;  // of offset, size and address of every read
};

DirectFile open_direct(const std::string& path, int flags);

}  // namespace moeflux::io
