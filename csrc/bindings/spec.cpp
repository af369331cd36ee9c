#include "bindings/spec.h"

#include <pybind11/stl.h>

#include "base/error.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using model::Node;

constexpr size_t kTensor = 5, kRange = 3;  // members of their tuples
constexpr int kMaxDepth = 16;              // a spec has 7

bool is_packed(const std::string& dtype) {
  return dtype == quant::kCodeWords || dtype == quant::kBlockBytes || dtype == quant::kE4m3;
}

Node node_of(const py::handle& source, int depth);

Node of_list(const py::handle& source, int depth) {
  Node::List list;
  for (const py::handle& item : source) list.push_back(node_of(item, depth));
  return {std::move(list)};
}

Node of_tuple(const py::tuple& t, int depth) {
  if (t.size() == kTensor) {
    const auto dtype = t[4].cast<std::string>();
    return {model::TensorRef{t[0].cast<std::string>(), t[1].cast<uint32_t>(), t[2].cast<uint64_t>(),
                             t[3].cast<uint64_t>(),
                             is_packed(dtype) ? quant::DType::f32 : quant::dtype_of(dtype)}};
  }
  if (t.size() == kRange)
    return {store::Part{t[2].cast<uint64_t>(), 0, t[0].cast<std::vector<uint32_t>>(),
                        t[1].cast<std::vector<uint64_t>>()}};
  return of_list(t, depth);
}

int64_t integer(const py::handle& source) {
  try {
    return source.cast<int64_t>();
  } catch (const py::cast_error&) {
    throw FormatError("[bindings] expected integers of 64 bits, found ",
                      py::str(source).cast<std::string>());
  }
}

Node node_of(const py::handle& source, int depth) {
  if (depth > kMaxDepth) throw FormatError("[bindings] expected a spec, found endless nesting");
  if (py::isinstance<py::bool_>(source)) return {source.cast<bool>()};
  if (PyIndex_Check(source.ptr())) return {integer(source)};
  if (py::isinstance<py::float_>(source)) return {source.cast<double>()};
  if (py::isinstance<py::str>(source)) return {source.cast<std::string>()};
  if (py::isinstance<py::tuple>(source))
    return of_tuple(py::reinterpret_borrow<py::tuple>(source), depth + 1);
  if (py::isinstance<py::list>(source)) return of_list(source, depth + 1);
  if (!py::isinstance<py::dict>(source))
    throw FormatError("[bindings] expected a spec's types, found ", Py_TYPE(source.ptr())->tp_name);
  Node::Dict dict;
  for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(source))
    dict.emplace(key.cast<std::string>(), node_of(value, depth + 1));
  return {std::move(dict)};
}

}  // namespace

Node to_node(const py::handle& source) {
  try {
    return node_of(source, 0);
  } catch (const py::cast_error& error) {
    throw FormatError("[bindings] expected a spec's types: ", error.what());
  }
}

}  // namespace moeflux::bindings
