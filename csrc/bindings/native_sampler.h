// What Python holds of a sampler, and one call's claim to it.
#pragma once
#include <pybind11/numpy.h>

#include <atomic>

#include "base/error.h"
#include "sampling/sampler.h"

namespace moeflux::bindings {

struct NativeSampler {
  sampling::Sampler sampler;
  std::atomic_flag in_use{};
};

// Keeps other calls, which may be of other threads, from a sampler.
class Claim {
 public:
  explicit Claim(NativeSampler& of) : of_(of) {
    if (of_.in_use.test_and_set())
      throw SessionError(
          "[sampling] expected a sampler that no other session or call uses, found one in use");
  }
  ~Claim() { of_.in_use.clear(); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  sampling::Sampler* operator->() const { return &of_.sampler; }

 private:
  NativeSampler& of_;
};

// A choice to be made: Python's (NativeSampler, uniform, mask uint32 (ceil(vocab / 32),) or None).
struct Wanted {
  using Words = pybind11::array_t<uint32_t, pybind11::array::c_style>;

  explicit Wanted(const pybind11::handle& sample);
  void choose(std::span<const float> logits);  // without the GIL
  // Adds "token", "logprob" and "top" to out, and lets the sampler go on.
  void tell(pybind11::dict& out);

  pybind11::object sampler;  // keeps it alive
  Claim claim;
  double uniform = 0;
  Words words;
  std::span<const uint32_t> mask;
  sampling::Choice choice;
};

}  // namespace moeflux::bindings
