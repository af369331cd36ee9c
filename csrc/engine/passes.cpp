#include "engine/passes.h"

#include <algorithm>

namespace moeflux::engine {

namespace {

// Tokens of a request that a pass computes when it may compute `most`.
uint32_t useful(const Remaining& request, uint32_t most, uint32_t chunk) {
  const uint32_t to_boundary = chunk - request.position % chunk;
  if (most >= request.n) return request.n;
  return most <= to_boundary ? most : most - (most - to_boundary) % chunk;
}

}  // namespace

std::vector<Share> next_pass(std::span<const Remaining> requests, uint32_t rows, uint32_t chunk) {
  std::vector<Share> wanted;  // one a request
  for (uint32_t i = 0; i < requests.size(); ++i)
    if (requests[i].n) wanted.push_back({i, useful(requests[i], rows, chunk), requests[i].done});
  std::stable_sort(wanted.begin(), wanted.end(),
                   [](const Share& a, const Share& b) { return a.n < b.n; });
  uint32_t left = rows, sharers = static_cast<uint32_t>(wanted.size());
  for (Share& share : wanted) {
    // Rounded up: with fewer rows than requests the first ones get a row each, the last ones none.
    const uint32_t most = (left + sharers - 1) / sharers;
    if (share.n > most) share.n = useful(requests[share.request], most, chunk);
    left -= share.n;
    --sharers;
  }
  std::sort(wanted.begin(), wanted.end(),
            [](const Share& a, const Share& b) { return a.request < b.request; });
  std::vector<Share> shares;
  for (const Share& share : wanted)
    for (uint32_t taken = 0; taken < share.n; taken += shares.back().n) {
      const uint32_t position = requests[share.request].position + taken;
      const uint32_t n = std::min(share.n - taken, chunk - position % chunk);
      shares.push_back({share.request, n, share.begin + taken});
    }
  return shares;
}

std::vector<Slice> slices_of(std::span<const Share> shares, uint32_t chunk) {
  std::vector<Slice> slices;
  uint32_t row = 0;
  for (size_t begin = 0, end = 0; begin < shares.size(); begin = end) {
    Slice slice{{}, row, 0};
    do {
      slice.n += shares[end++].n;
    } while (end < shares.size() && slice.n + shares[end].n <= chunk &&
             shares[end].request != shares[end - 1].request);
    slice.shares = shares.subspan(begin, end - begin);
    row += slice.n;
    slices.push_back(slice);
  }
  return slices;
}

}  // namespace moeflux::engine
