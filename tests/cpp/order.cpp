#include "order.h"

#include <utility>

#include "device/check.h"

namespace moeflux::device::host {

namespace {
struct Access {
  const std::byte *begin, *end;
  bool writes;
};

std::vector<Access> accesses(const Recording& recording, const Recording::Dispatch& dispatch) {
  const auto args = recording.args(dispatch);
  const auto bindings = dispatch.pipeline->info().bindings;
  const std::vector<uint64_t> touched =
      touched_bytes(*dispatch.pipeline, args, {dispatch.grid, dispatch.threadgroup});
  std::vector<Access> found;
  for (size_t i = 0; i < args.size(); ++i)
    if (const Slice* slice = std::get_if<Slice>(&args[i]); slice && slice->buffer) {
      const std::byte* data = slice->buffer->contents() + slice->offset;
      found.push_back({data, data + touched[i], bindings[i].writable});
      for (const auto& reached : slice->buffer->reaches())
        found.push_back({reached->contents(), reached->contents() + reached->nbytes(), false});
    }
  return found;
}

bool conflict(const std::vector<Access>& one, const std::vector<Access>& other) {
  for (const Access& a : one)
    for (const Access& b : other)
      if ((a.writes || b.writes) && a.begin < b.end && b.begin < a.end) return true;
  return false;
}
}  // namespace

std::vector<size_t> random_legal_order(const Recording& recording, std::mt19937& random) {
  std::vector<std::vector<Access>> touched;  // by dispatch
  for (const auto& dispatch : recording.dispatches())
    touched.push_back(accesses(recording, dispatch));
  std::vector<std::vector<size_t>> behind(touched.size());  // later ones that wait for this one
  std::vector<size_t> waits(touched.size()), ready, order;  // for so many earlier ones
  for (size_t later = 0; later < touched.size(); ++later) {
    for (size_t earlier = 0; earlier < later; ++earlier)
      if (conflict(touched[earlier], touched[later])) {
        behind[earlier].push_back(later);
        ++waits[later];
      }
    if (waits[later] == 0) ready.push_back(later);
  }
  while (!ready.empty()) {
    std::swap(ready[random() % ready.size()], ready.back());
    order.push_back(ready.back());
    ready.pop_back();
    for (const size_t later : behind[order.back()])
      if (--waits[later] == 0) ready.push_back(later);
  }
  return order;
}

}  // namespace moeflux::device::host
