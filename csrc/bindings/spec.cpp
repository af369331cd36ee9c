#include "bindings/spec.h"

#include <pybind11/stl.h>

#include "base/error.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using model::Node;

constexpr size_t kTensor = 5, kRange = 3;  // members of their tuples

bool is_packed(const std::string& dtype) {  // codes or blocks: no numbers
  return dtype == "U32" || dtype == "U8";
}

Node of_list(const py::handle& source) {
  Node::List list;
  for (const py::handle& item : source) list.push_back(to_node(item));
  return {std::move(list)};
}

Node of_tuple(const py::tuple& t) {
  if (t.size() == kTensor) {
    const auto dtype = t[4].cast<std::string>();
    return {model::TensorRef{t[0].cast<std::string>(), t[1].cast<uint32_t>(), t[2].cast<uint64_t>(),
                             t[3].cast<uint64_t>(),
                             is_packed(dtype) ? quant::DType::f32 : quant::dtype_of(dtype)}};
  }
  if (t.size() == kRange)
    return {store::Part{t[2].cast<uint64_t>(), 0, t[0].cast<std::vector<uint32_t>>(),
                        t[1].cast<std::vector<uint64_t>>()}};
  return of_list(t);
}

int64_t integer(const py::handle& source) {
  try {
    return source.cast<int64_t>();
  } catch (const py::cast_error&) {
    throw FormatError("[bindings] expected integers of 64 bits, found ",
                      py::str(source).cast<std::string>());
  }
}

}  // namespace

Node to_node(const py::handle& source) {
  if (py::isinstance<py::bool_>(source)) return {source.cast<bool>()};
  if (py::isinstance<py::int_>(source)) return {integer(source)};
  if (py::isinstance<py::float_>(source)) return {source.cast<double>()};
  if (py::isinstance<py::str>(source)) return {source.cast<std::string>()};
  if (py::isinstance<py::tuple>(source)) return of_tuple(py::reinterpret_borrow<py::tuple>(source));
  if (py::isinstance<py::list>(source)) return of_list(source);
  Node::Dict dict;
  for (const auto& [key, value] : source.cast<py::dict>())
    dict.emplace(key.cast<std::string>(), to_node(value));
  return {std::move(dict)};
}

}  // namespace moeflux::bindings
