#include "engine/passes.h"

#include <algorithm>

namespace moeflux::engine {

std::vector<Share> next_pass(std::span<const Remaining> requests, uint32_t rows, uint32_t chunk) {
  std::vector<Share> shares;
  for (uint32_t i = 0; i < requests.size(); ++i) {
    const uint32_t to_boundary = chunk - requests[i].position % chunk;
    if (requests[i].n) shares.push_back({i, std::min(requests[i].n, to_boundary)});
  }
  std::stable_sort(shares.begin(), shares.end(),
                   [](const Share& a, const Share& b) { return a.n < b.n; });
  uint32_t left = rows, sharers = static_cast<uint32_t>(shares.size());
  for (Share& share : shares) {
    // Rounded up: with fewer rows than requests the first ones get a row each, the last ones none.
    share.n = std::min(share.n, (left + sharers - 1) / sharers);
    left -= share.n;
    --sharers;
  }
  std::erase_if(shares, [](const Share& share) { return share.n == 0; });
  std::sort(shares.begin(), shares.end(),
            [](const Share& a, const Share& b) { return a.request < b.request; });
  return shares;
}

}  // namespace moeflux::engine
