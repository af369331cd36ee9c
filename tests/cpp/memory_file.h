// A file in memory. For tests only.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/file.h"

namespace moeflux::io {

class MemoryFile final : public File {
 public:
  MemoryFile(std::vector<std::byte> bytes, std::string name, size_t alignment)
      : bytes_(std::move(bytes)), name_(std::move(name)), alignment_(alignment) {}

  size_t read_at(uint64_t offset, std::span<std::byte> out) override {
    if (offset >= bytes_.size()) return 0;
    const size_t n = std::min<uint64_t>(out.size(), bytes_.size() - offset);
    std::memcpy(out.data(), bytes_.data() + offset, n);
    return n;
  }
  uint64_t size() const override { return bytes_.size(); }
  size_t alignment() const override { return alignment_; }
  const std::string& path() const override { return name_; }

 private:
  std::vector<std::byte> bytes_;
  std::string name_;
  size_t alignment_;
};

inline std::shared_ptr<File> open_memory(std::vector<std::byte> bytes, std::string name,
                                         size_t alignment = 1) {
  return std::make_shared<MemoryFile>(std::move(bytes), std::move(name), alignment);
}

}  // namespace moeflux::io
