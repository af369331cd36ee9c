#include <pybind11/numpy.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "io/readers.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core of moeflux. Use the functions of the package instead.";
  // pybind11 looks numpy up at the first use of an array, and waits there without the GIL. A thread
  // that an ending interpreter stops in that wait would abort the process.
  pybind11::dtype::of<float>();
  module.attr("__version__") = MOEFLUX_VERSION;
  module.attr("READ_THREADS") = moeflux::io::kReadThreads;
  moeflux::bindings::register_errors(module);
  moeflux::bindings::register_exit();
  moeflux::bindings::register_device(module);
  moeflux::bindings::register_kernel_table(module);
  moeflux::bindings::register_formats(module);
  moeflux::bindings::register_options(module);
  moeflux::bindings::register_snapshots(module);
  moeflux::bindings::register_model(module);
  moeflux::bindings::register_plan(module);
  moeflux::bindings::register_sampling(module);
  moeflux::bindings::register_eviction(module);
}
