// What computes a model: an arena and the ops that work in it.
#pragma once
#include <memory>
#include <string>

#include "base/arena.h"
#include "base/error.h"
#include "device/device.h"
#include "ops/ops.h"

namespace moeflux::bindings {

struct ComputeOptions {
  std::shared_ptr<device::Device> device;  // null: the CPU's own ops, to which the rest applies
  int n_threads = 1;
  std::string simd;  // empty: the best that this machine runs
  ops::Precision precision = ops::Precision::float32;
};

struct Compute {
  std::shared_ptr<base::Arena> arena;  // keeps the device
  std::unique_ptr<ops::Ops> ops;
};

inline ops::Precision precision_of(const std::string& name) {  // throws FormatError
  if (name == "float32") return ops::Precision::float32;
  if (name == "bfloat16") return ops::Precision::bfloat16;
  if (name == "int8") return ops::Precision::int8;
  throw FormatError("[bindings] expected precision float32, bfloat16 or int8, found ", name);
}

// Throws FormatError when the options name what is not there, or a precision that the device does
// not have.
Compute open_compute(base::Account& account, const ComputeOptions& options);

}  // namespace moeflux::bindings
