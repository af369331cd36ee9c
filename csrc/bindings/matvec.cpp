// What `moeflux doctor` looks up: the table of matvec variants.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "ops/gpu/matvec_variant.h"

namespace py = pybind11;

namespace moeflux::bindings {

void register_matvec(py::module_& module) {
  module.def("matvec_shape", [](uint64_t out_dim, uint64_t in_dim) {
    return ops::shape_name(ops::matvec_shape(out_dim, in_dim));
  });
  module.def(
      "matvec_variant",
      [](std::string_view device_name, uint64_t out_dim, uint64_t in_dim, uint32_t bits) {
        return ops::matvec_variant(device_name, out_dim, in_dim, bits);
      },
      py::arg("device_name"), py::arg("out_dim"), py::arg("in_dim"), py::arg("bits"));
}

}  // namespace moeflux::bindings
