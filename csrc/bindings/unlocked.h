// Other Python threads run while native code reads or computes.
#pragma once
#include <pybind11/pybind11.h>

namespace moeflux::bindings {

// f() without the GIL. REQUIRES: f touches no Python object.
template <class F>
auto unlocked(F&& f) {
  pybind11::gil_scoped_release release;
  return f();
}

}  // namespace moeflux::bindings
