// What a model needs, by loading it from holes: every check and every booking of a real load, while
// no file is read and no page touched.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/compute.h"
#include "engine/engine.h"
#include "store/plan.h"

namespace moeflux::bindings {

struct Needs {
  store::PlanInput sizes;    // memory_bytes: 0
  uint64_t state_bytes = 0;  // of a session that holds nothing: recurrent state, tables
  uint32_t extent = 0;       // positions by which its KV caches grow
  struct Cache {
    uint64_t extent_bytes = 0;
    uint32_t window = 0;  // positions that a token sees; 0: all
    uint32_t most = 0;    // extents, however long the session is; 0: any number
  };
  std::vector<Cache> caches;
};

// `file_bytes`: the sizes of the files that `spec` names. Throws as a load does.
Needs measure(const pybind11::dict& spec, const std::vector<uint64_t>& file_bytes,
              const ComputeOptions& compute_options, const engine::Options& options);

}  // namespace moeflux::bindings
