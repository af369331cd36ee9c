// Pace: how long dispatches take, learnt from the times of command buffers that have run, so that
// none holds the device for longer than the system lets it. Decides how much goes together and
// nothing else: no sum depends on it. One thread.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace moeflux::ops::gpu {

// What a dispatch has to do: multiply-adds where its stage says them, else threads. A kernel always
// has the one or the other.
struct Work {
  uint64_t units = 0;
  bool is_macs = false;
};

class Pace {
 public:
  struct Kernel {
    struct Constant {
      std::string_view name;  // empty: none
      uint32_t value = 0;
      auto operator<=>(const Constant&) const = default;
    };

    Kernel(std::string_view name) : name(name) {}  // NOLINT: a name is a kernel without constants
    Kernel(std::string_view name, std::string_view constant, uint32_t value) : name(name) {
      set(constant, value);
    }
    void set(std::string_view constant, uint32_t value) {
      constants.at(n_constants++) = {constant, value};
    }
    auto operator<=>(const Kernel&) const = default;

    std::string_view name;                // must last, as those of constants
    std::array<Constant, 5> constants{};  // function constants that are not their default
    uint32_t n_constants = 0;
  };
  struct Part {
    Kernel kernel;
    Work work;
  };

  // Budgets of 0: as long as it likes, and nothing is learnt.
  explicit Pace(const device::Limits& limits)
      : dispatch_ns_(limits.dispatch_ns), buffer_ns_(limits.buffer_ns) {}

  bool is_limited() const { return buffer_ns_ != 0; }
  // Before the first measurement: what the slowest GPU is expected to need at the worst.
  double ns(const Part& part) const;
  // Whether a part still fits into a command buffer that has `ns` of them.
  bool fits(double ns, const Part& part) const;
  // Multiply-adds that one dispatch of a kernel takes at most; one at least.
  uint64_t most_macs(const Kernel& kernel) const;

  // What these took together; 0: they did not run. A command buffer that the system has ended tells
  // how long they take at least, and that it was too long.
  void learn(std::span<const Part> parts, uint64_t gpu_ns, bool failed);

 private:
  double rate(const Part& part) const;  // ns a unit

  const uint64_t dispatch_ns_, buffer_ns_;
  std::map<Kernel, double> rates_;
};

}  // namespace moeflux::ops::gpu
