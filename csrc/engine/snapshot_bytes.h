// SnapshotBytes: what a snapshot holds as one row of bytes, for files. Recurrent states by layer;
// then, of each KV cache, the extents that rows to come see, the partly filled one last, each as
// CacheMemory::spans has it. A snapshot of no tokens has no bytes: its states are zeros.
#pragma once
#include <span>
#include <vector>

#include "engine/session.h"

namespace moeflux::engine {

class SnapshotBytes {
 public:
  // REQUIRES: the snapshot outlives it.
  SnapshotBytes(const SessionLayout& layout, const Session::Snapshot& snapshot);

  uint64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  // Copies the bytes from `begin` on. Throws SessionError when there are not so many. Nobody writes
  // to a snapshot that sessions may hold.
  void read(uint64_t begin, std::span<std::byte> to) const;
  void write(uint64_t begin, std::span<const std::byte> from) const;

 private:
  template <class Copy>
  void each(uint64_t begin, uint64_t nbytes, Copy&& copy) const;
  void add(std::span<std::byte> span);

  std::vector<std::span<std::byte>> spans_;
  std::vector<uint64_t> ends_;  // of each, in the row
};

}  // namespace moeflux::engine
