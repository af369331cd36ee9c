#include "ops/gpu/staging.h"

#include <algorithm>

#include "base/error.h"

namespace moeflux::ops::gpu {

namespace {
constexpr uint64_t kPollNs = 50'000'000;
}  // namespace

void wait_for_end(device::Commands& commands) {
  try {
    while (!commands.wait_for(kPollNs)) {
    }
  } catch (const GpuError&) {
  }
}

void Staging::release() {
  while (!flights_.empty() && flights_.front().commands->done()) {
    begin_ = flights_.front().end;
    flights_.pop_front();
  }
}

const uint32_t* Staging::put(std::span<const uint32_t> list) {
  const uint64_t to_end = capacity_ ? capacity_ - end_ % capacity_ : 0;
  const uint64_t skipped = list.size() <= to_end ? 0 : to_end;
  for (release(); end_ + skipped + list.size() - begin_ > capacity_; release()) {
    if (flights_.empty())
      throw Error("[gpu::Staging] expected lists of at most ", capacity_,
                  " words in one recording, found more: beyond the reserved workload");
    wait_for_end(*flights_.front().commands);
  }
  end_ += skipped;
  uint32_t* place = memory_.as<uint32_t>() + end_ % capacity_;
  std::copy(list.begin(), list.end(), place);
  end_ += list.size();
  return place;
}

}  // namespace moeflux::ops::gpu
