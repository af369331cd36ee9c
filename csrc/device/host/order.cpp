#include "device/host/order.h"

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
  const auto steps = recording.steps();
  std::vector<std::vector<Access>> touched(steps.size());  // empty: not a dispatch
  for (size_t i = 0; i < steps.size(); ++i)
    if (const auto* dispatch = std::get_if<Recording::Dispatch>(&steps[i]))
      touched[i] = accesses(recording, *dispatch);
  std::vector<size_t> waiting(steps.size()), order;
  for (size_t i = 0; i < steps.size(); ++i) waiting[i] = i;
  while (!waiting.empty()) {
    // Those that nothing before them holds back: a step that is no dispatch holds back all.
    std::vector<size_t> ready;
    for (size_t w = 0; w < waiting.size(); ++w) {
      bool free = w == 0 || !touched[waiting[w]].empty();
      for (size_t before = 0; before < w && free; ++before)
        free = !touched[waiting[before]].empty() &&
               !conflict(touched[waiting[before]], touched[waiting[w]]);
      if (free) ready.push_back(w);
    }
    const size_t chosen = ready[random() % ready.size()];
    order.push_back(waiting[chosen]);
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  return order;
}

}  // namespace moeflux::device::host
