// What Python says of a model's compute and of its engine: the core's structs, by named arguments.
#include "bindings/bindings.h"
#include "bindings/compute.h"
#include "bindings/native_device.h"
#include "engine/engine.h"

namespace py = pybind11;

namespace moeflux::bindings {

void register_options(py::module_& module) {
  using namespace py::literals;
  py::class_<ComputeOptions>(module, "Compute")
      .def(py::init([](int n_threads, const std::string& simd, const std::string& precision,
                       const NativeDevice* device, const std::string& kv) {
             return ComputeOptions{device_of(device), n_threads, simd, precision_of(precision), kv};
           }),
           py::kw_only(), "n_threads"_a, "simd"_a = "", "precision"_a = "float32",
           "device"_a = py::none(), "kv"_a = "")
      .def_property_readonly("precision",
                             [](const ComputeOptions& self) { return name_of(self.precision); });
  py::class_<engine::Options>(module, "Options")
      .def(py::init([](uint32_t context, uint32_t read_threads, bool read_ahead, uint32_t max_slots,
                       uint32_t rows) {
             return engine::Options{read_threads, context, max_slots, read_ahead, rows};
           }),
           py::kw_only(), "context"_a, "read_threads"_a, "read_ahead"_a, "max_slots"_a = 0,
           "rows"_a = 0);
}

}  // namespace moeflux::bindings
