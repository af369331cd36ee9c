// What `moeflux doctor` measures and looks up: the rate of a disk, the table of matvec variants.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "io/read_rate.h"
#include "ops/gpu/matvec_variant.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

py::dict measure_reads(const std::string& path, uint64_t record_bytes, int n_threads,
                       double seconds) {
  io::ReadRate rate;
  bool direct = false;
  {
    py::gil_scoped_release release;
    const std::shared_ptr<io::File> file = io::open_posix(path, true);
    direct = file->alignment() > 1;
    rate = io::measure_reads(*file, record_bytes, n_threads, seconds);
  }
  using namespace py::literals;
  return py::dict("bytes"_a = rate.bytes, "seconds"_a = rate.seconds, "direct"_a = direct);
}

}  // namespace

void register_probe(py::module_& module) {
  module.def("measure_reads", &measure_reads, py::arg("path"), py::arg("record_bytes"),
             py::arg("n_threads"), py::arg("seconds"));
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
