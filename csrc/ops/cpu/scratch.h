// Scratch: a buffer that stages take pieces of, one after the other. Before book() it only counts:
// its pieces have addresses and no memory, and what a stage needs is found by the code that takes
// it (CpuOps::needs).
#pragma once
#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/memory.h"

namespace moeflux::ops::cpu {

class Scratch {
 public:
  explicit Scratch(const char* what) : what_(what) {}

  // `count` values, until start(). Throws Error where that is more than was booked.
  template <class T = float>
  T* take(uint64_t count) {
    std::byte* const base = booked() ? memory_.data() : reinterpret_cast<std::byte*>(kNowhere);
    std::byte* const piece = base + used_;
    used_ += count * sizeof(T);
    if (booked() && used_ > most_)
      throw Error("[cpu::Scratch] " + std::string(what_) +
                  ": a stage beyond the reserved workload");
    most_ = std::max(most_, used_);
    return reinterpret_cast<T*>(piece);
  }
  void start() { used_ = 0; }
  uint64_t most() const { return most_; }  // bytes that were taken at a time, or are booked
  void book(base::Arena& arena) {
    memory_ = base::Memory(arena, most_, what_);
    used_ = 0;
  }

 private:
  static constexpr uintptr_t kNowhere = 64;  // not null, to which nothing may be added
  bool booked() const { return memory_.data() != nullptr; }

  const char* what_;
  base::Memory memory_;
  uint64_t most_ = 0, used_ = 0;
};

// All that the stages compute in.
struct Buffers {
  Scratch workers{"kernel scratch"};
  Scratch records{"prepared activations"};             // of all formats of a stage
  Scratch packed{"packed activations"};                // the same rows
  Scratch hidden{"FFN buffers"};                       // (rows, 2, d_ff): gate and up
  Scratch hidden_records{"prepared FFN activations"};  // (rows) silu(gate) * up
  Scratch hidden_packed{"packed FFN activations"};
  Scratch stage{"stage buffers"};
  Scratch spans{"attention states"};  // of a single row's spans
  Scratch rope{"rotary table"};       // (rows, 2, rotary_dim / 2): cos, sin

  std::array<Scratch*, 9> all() {
    return {&workers,       &records, &packed, &hidden, &hidden_records,
            &hidden_packed, &stage,   &spans,  &rope};
  }
};

}  // namespace moeflux::ops::cpu
