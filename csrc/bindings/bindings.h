// The areas of the extension module; each is registered by one file. Nothing below includes
// pybind11.
#pragma once
#include <pybind11/pybind11.h>

namespace moeflux::bindings {

void register_device(pybind11::module_& module);
void register_errors(pybind11::module_& module);
void register_eviction(pybind11::module_& module);
void register_formats(pybind11::module_& module);
void register_kernel_table(pybind11::module_& module);
void register_model(pybind11::module_& module);
void register_options(pybind11::module_& module);
void register_plan(pybind11::module_& module);
void register_sampling(pybind11::module_& module);
void register_snapshots(pybind11::module_& module);

}  // namespace moeflux::bindings
