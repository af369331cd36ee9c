// What stands for the mixer of a layer that has a network alone.
#pragma once
#include <string>

#include "ops/rows.h"

namespace moeflux::ops {

struct Nothing {
  static constexpr char kKind[] = "nothing";

  template <class V>
  void fields(V&&) {}
  std::string fault() const { return {}; }
  CacheShape cache() const { return {}; }
  uint64_t state_floats() const { return 0; }
};

inline void mix(cpu::CpuOps&, const Nothing&, Segments, const Rows&, float*) {}
inline void mix(gpu::GpuOps&, const Nothing&, Segments, const Rows&, float*) {}

}  // namespace moeflux::ops
