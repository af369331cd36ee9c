// Bump: pieces of the stages' scratch, one after the other. In a rehearsal it only counts: what a
// stage needs is found by the code that takes it.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/arena.h"
#include "base/error.h"

namespace moeflux::ops::gpu {

// An address for stages that are rehearsed. Nothing is read or written there.
inline float* nowhere() {
  return reinterpret_cast<float*>(uintptr_t{1} << 20);
}

class Bump {
 public:
  Bump(float* memory, uint64_t floats) : memory_(memory), floats_(floats) {}
  explicit Bump(uint64_t& most) : Bump(nowhere(), UINT64_MAX) { most_ = &most; }  // counts

  float* take(uint64_t floats) {
    const uint64_t begin = used_;
    used_ += base::round_up(floats, kFloats);
    if (used_ > floats_) throw Error("[gpu::Bump] a stage beyond the reserved workload");
    if (most_) *most_ = std::max(*most_, used_);
    return memory_ + begin;
  }

 private:
  static constexpr uint64_t kFloats = 4;  // 16 bytes: kernels read float4
  float* memory_;
  uint64_t floats_, used_ = 0;
  uint64_t* most_ = nullptr;
};

}  // namespace moeflux::ops::gpu
