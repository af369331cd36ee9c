// Bump: pieces of the stages' scratch, one after the other. Without memory it only counts: what a
// stage needs is found by the code that takes it.
#pragma once
#include <cstdint>

#include "base/arena.h"
#include "base/error.h"

namespace moeflux::ops::gpu {

class Bump {
 public:
  Bump() = default;  // counts
  Bump(float* memory, uint64_t floats) : memory_(memory), floats_(floats) {}

  float* take(uint64_t floats) {
    const uint64_t begin = used_;
    used_ += base::round_up(floats, kFloats);
    if (memory_ == nullptr) return nullptr;
    if (used_ > floats_) throw Error("[gpu::Bump] a stage beyond the reserved workload");
    return memory_ + begin;
  }
  uint64_t used() const { return used_; }

 private:
  static constexpr uint64_t kFloats = 4;  // 16 bytes: kernels read float4
  float* memory_ = nullptr;
  uint64_t floats_ = 0, used_ = 0;
};

}  // namespace moeflux::ops::gpu
