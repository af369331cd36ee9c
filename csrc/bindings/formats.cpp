// The table of weight formats, for Python: which there are, and what tensors a matrix consists of.
#include "bindings/formats.h"

#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using namespace py::literals;

constexpr const char* kDTypes[] = {"F32", "F16", "BF16"};  // in the order of DType

using Row = std::tuple<std::string, uint32_t, std::vector<uint32_t>>;

std::vector<Row> formats() {
  std::vector<Row> rows;
  for (const quant::Format& format : quant::formats())
    rows.emplace_back(format.name, format.bits,
                      std::vector<uint32_t>(format.groups.begin(), format.groups.end()));
  return rows;
}

// Of each tensor: name, dtype, elements a row.
using Tensor = std::tuple<std::string, std::string, uint64_t>;

std::vector<Tensor> tensors(const std::string& format, uint32_t columns, uint32_t group,
                            const std::string& dtype) {
  const quant::Shape shape{1, columns, &quant::find_format(format), group, dtype_of(dtype)};
  quant::check_shape(shape, "of a spec");
  std::vector<Tensor> found;
  for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
    const quant::Plane& part = shape.format->planes[plane];
    if (part.name == nullptr) continue;
    const uint64_t nbytes = shape.row_bytes(plane);
    if (part.bits)
      found.emplace_back(part.name, "U32", nbytes / 4);
    else
      found.emplace_back(part.name, dtype, nbytes / quant::dtype_bytes(shape.dtype));
  }
  return found;
}

}  // namespace

quant::DType dtype_of(const std::string& name) {
  for (size_t i = 0; i < std::size(kDTypes); ++i)
    if (name == kDTypes[i]) return static_cast<quant::DType>(i);
  throw FormatError("[bindings] expected dtype F32, F16 or BF16, found ", name);
}

void register_formats(py::module_& module) {
  module.def("formats", &formats);
  module.def("tensors", &tensors, "format"_a, "columns"_a, "group"_a, "dtype"_a);
}

}  // namespace moeflux::bindings
