// The binding tables for Python: what each kernel takes.
#include "device/kernel_table.h"

#include <pybind11/pybind11.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "device/library_source.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

py::list kernel_table() {
  py::list table;
  for (const device::KernelInfo& info : device::kernel_table())
    table.append(py::cast(&info, py::return_value_policy::reference));
  return table;
}

const char* type_name(device::Type type) {
  switch (type) {
    case device::Type::f32:
      return "f32";
    case device::Type::f16:
      return "f16";
    case device::Type::bf16:
      return "bf16";
    case device::Type::u32:
      return "u32";
    case device::Type::i32:
      return "i32";
    case device::Type::u8:
      return "u8";
    case device::Type::u64:
      return "u64";
  }
  throw GpuError("[bindings::Device] a binding of no known type");
}

}  // namespace

void register_kernel_table(py::module_& module) {
  module.def("library_source", [] { return device::library_source(); });
  py::class_<device::Binding>(module, "Binding")
      .def_property_readonly("name", [](const device::Binding& self) { return self.name; })
      .def_property_readonly("dtype",
                             [](const device::Binding& self) { return type_name(self.type); })
      .def_readonly("scalar", &device::Binding::scalar)
      .def_readonly("writable", &device::Binding::writable);
  py::class_<device::KernelInfo>(module, "KernelInfo")
      .def_property_readonly("name", [](const device::KernelInfo& self) { return self.name; })
      .def_property_readonly("file", [](const device::KernelInfo& self) { return self.file; })
      .def_readonly("contract", &device::KernelInfo::contract)
      .def_property_readonly("bindings",
                             [](const device::KernelInfo& self) {
                               py::list out;
                               for (const device::Binding& binding : self.bindings)
                                 out.append(py::cast(&binding, py::return_value_policy::reference));
                               return py::tuple(out);
                             })
      .def_property_readonly("constants", [](const device::KernelInfo& self) {
        py::dict out;
        for (const device::FunctionConstant& constant : self.constants)
          out[constant.name] = constant.value;
        return out;
      });
  module.def("kernel_table", &kernel_table);
}

}  // namespace moeflux::bindings
