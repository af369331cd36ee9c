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
  std::string kv;  // of the cache: float32, bfloat16 or int8; empty: what the precision gives
};

struct Compute {
  std::shared_ptr<base::Arena> arena;  // keeps the device
  std::unique_ptr<ops::Ops> ops;
};

inline const char* name_of(ops::Precision precision) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "int8"};
  return kNames[static_cast<int>(precision)];
}
inline ops::Precision precision_of(const std::string& name) {  // throws FormatError
  using enum ops::Precision;
  for (ops::Precision precision : {float32, bfloat16, int8})
    if (name == name_of(precision)) return precision;
  throw FormatError("[bindings] expected precision float32, bfloat16 or int8, found ", name);
}

// The type of the KV cache by name, and what it stands for, of which a device has no int8.
inline std::string kv_of(const ComputeOptions& options) {
  if (!options.kv.empty()) return options.kv;
  return options.precision == ops::Precision::float32 ? "float32" : "bfloat16";
}
inline ops::CacheType cache_of(const std::string& kv) {  // throws FormatError
  if (kv == "float32") return ops::CacheType::f32;
  if (kv == "bfloat16") return ops::CacheType::bf16;
  if (kv == "int8") return ops::CacheType::int8;
  throw FormatError("[bindings::Compute] expected kv float32, bfloat16 or int8, found ", kv);
}

// Throws FormatError when the options name what is not there, or a precision or type of cache that
// the device does not have.
Compute open_compute(base::Account& account, const ComputeOptions& options);

}  // namespace moeflux::bindings
