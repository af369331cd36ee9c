// The threadgroup memory of one threadgroup: each array between red zones, filled with NaN before
// the threadgroup starts, since Metal leaves it undefined.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "device/host/kernel.h"

namespace moeflux::device::host {

class ThreadgroupMemory {
 public:
  // For the next threadgroup of a kernel with these arrays.
  void prepare(std::span<const ThreadgroupArray> arrays);
  std::byte* data() const { return data_; }
  // The array that was written past its end or before its start, or null.
  const ThreadgroupArray* overrun(std::span<const ThreadgroupArray> arrays) const;
  // Under thread sanitizer each threadgroup of a dispatch has memory of its own, until this.
  void forget();

 private:
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::byte* data_ = nullptr;
  size_t nbytes_ = 0;
};

}  // namespace moeflux::device::host
