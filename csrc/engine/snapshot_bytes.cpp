#include "engine/snapshot_bytes.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

SnapshotBytes::SnapshotBytes(const SessionLayout& layout, const Session::Snapshot& snapshot) {
  if (snapshot.positions == 0) return;
  add({snapshot.states.mapped(), layout.states_bytes()});
  for (const KvCache::Held& cache : snapshot.caches) {
    std::vector<KvCache::Memory> extents = cache.full;
    if (cache.tail) extents.push_back(cache.tail);
    for (const auto& extent : extents)
      for (const std::span<std::byte> span : extent->spans()) add(span);
  }
}

void SnapshotBytes::add(std::span<std::byte> span) {
  if (span.empty()) return;
  ends_.push_back(size() + span.size());
  spans_.push_back(span);
}

template <class Copy>
void SnapshotBytes::each(uint64_t begin, uint64_t nbytes, Copy&& copy) const {
  if (begin > size() || nbytes > size() - begin)
    throw SessionError("[engine::Snapshot] expected bytes up to ", size(), ", found ", nbytes,
                       " of them at ", begin);
  auto i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
  for (uint64_t done = 0; done < nbytes; ++i) {
    const uint64_t at = begin + done - (ends_[i] - spans_[i].size());
    const uint64_t n = std::min(nbytes - done, spans_[i].size() - at);
    copy(done, spans_[i].subspan(at, n));
    done += n;
  }
}

void SnapshotBytes::read(uint64_t begin, std::span<std::byte> to) const {
  each(begin, to.size(), [&](uint64_t done, std::span<const std::byte> from) {
    std::memcpy(to.data() + done, from.data(), from.size());
  });
}

void SnapshotBytes::write(uint64_t begin, std::span<const std::byte> from) const {
  each(begin, from.size(), [&](uint64_t done, std::span<std::byte> to) {
    std::memcpy(to.data(), from.data() + done, to.size());
  });
}

}  // namespace moeflux::engine
