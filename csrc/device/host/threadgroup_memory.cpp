#include "device/host/threadgroup_memory.h"

#include <algorithm>
#include <cstring>

#include "device/host/sanitizers.h"

namespace moeflux::device::host {

namespace {
constexpr size_t kRedZone = 64;  // RED_ZONE of tools/msl/threadgroup.py
constexpr auto kCanary = std::byte{0xca};
constexpr int kNaN = 0xff;  // every f32, f16 and bf16 of these bytes is one

bool intact(const std::byte* zone) {
  return std::all_of(zone, zone + kRedZone, [](std::byte b) { return b == kCanary; });
}
}  // namespace

void ThreadgroupMemory::prepare(std::span<const ThreadgroupArray> arrays) {
  if (arrays.empty()) return;
  const size_t needed = arrays.back().offset + arrays.back().nbytes + kRedZone;
  if (kTsan || needed > nbytes_) {
    if (!kTsan) forget();
    blocks_.push_back(std::make_unique<std::byte[]>(needed));
    data_ = blocks_.back().get();
    nbytes_ = needed;
  }
  asan_allow(data_, nbytes_);
  std::fill_n(data_, nbytes_, kCanary);
  for (const ThreadgroupArray& array : arrays)
    std::memset(data_ + array.offset, kNaN, array.nbytes);
  asan_forbid(data_, nbytes_);
  for (const ThreadgroupArray& array : arrays) asan_allow(data_ + array.offset, array.nbytes);
}

const ThreadgroupArray* ThreadgroupMemory::overrun(std::span<const ThreadgroupArray> arrays) const {
  if (kAsan || kTsan) return nullptr;  // address sanitizer has reported it at the access
  for (const ThreadgroupArray& array : arrays)
    if (!intact(data_ + array.offset - kRedZone) || !intact(data_ + array.offset + array.nbytes))
      return &array;
  return nullptr;
}

void ThreadgroupMemory::forget() {
  if (data_) asan_allow(data_, nbytes_);
  blocks_.clear();
  data_ = nullptr;
  nbytes_ = 0;
}

}  // namespace moeflux::device::host
