// The table of weight formats, for Python: which there are, and what tensors a matrix consists of.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/affine.h"
#include "base/error.h"
#include "base/format.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "ops/cpu/kernels.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using namespace py::literals;

using Row = std::tuple<std::string, uint32_t, std::vector<uint32_t>, bool, bool>;

std::vector<Row> formats() {
  std::vector<Row> rows;
  for (const quant::Format& format : quant::formats())
    rows.emplace_back(format.name, format.bits,
                      std::vector<uint32_t>(format.groups.begin(), format.groups.end()),
                      format.transcode != nullptr, format.has_floats());
  return rows;
}

// Of each tensor: name, dtype, elements a row, rows of the matrix that one of it is for.
using Tensor = std::tuple<std::string, std::string, uint64_t, uint32_t>;

std::vector<Tensor> tensors(const std::string& format, uint32_t columns, uint32_t group,
                            const std::string& dtype) {
  const quant::Shape shape{1, columns, &quant::find_format(format), group, quant::dtype_of(dtype)};
  quant::check_shape(shape, "of a spec");
  std::vector<Tensor> found;
  for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
    if (!shape.format->in_file(plane)) continue;
    const quant::Plane& part = shape.format->planes[plane];
    const std::string of = shape.format->transcode ? quant::kBlockBytes
                           : part.bits             ? part.dtype
                                                   : dtype;
    const uint64_t width = of == quant::kCodeWords ? 4 : part.bits ? 1 : dtype_bytes(shape.dtype);
    found.emplace_back(part.name, of, shape.file_bytes(plane) / width, part.rows);
  }
  return found;
}

// Rows (n, columns) of a matrix. Throws FormatError: kernels read scales that are finite.
void expand(const quant::Matrix& matrix, float* rows) {
  if (!quant::all_finite(matrix)) throw FormatError("[bindings] expected finite numbers");
  const auto& kernels = ops::cpu::select_kernels(nullptr);
  for (uint32_t i = 0; i < matrix.shape.out; ++i)
    kernels.dequant_row(matrix, i, rows + uint64_t{i} * matrix.shape.in);
}

uint32_t count_rows(uint64_t nbytes, uint64_t row_bytes) {
  const uint64_t n = nbytes / row_bytes;
  if (n == 0 || n > UINT32_MAX || nbytes % row_bytes)
    throw FormatError("[bindings] expected rows of ", row_bytes, " bytes, found ", nbytes);
  return static_cast<uint32_t>(n);
}

// Rows (n, columns) of a matrix of blocks that a file has as `blocks`.
py::array_t<float> decode(const std::string& format, uint32_t columns, const py::bytes& blocks) {
  const quant::Format& row = quant::find_format(format);
  if (row.transcode == nullptr)
    throw FormatError("[bindings] expected a format of blocks, found ", format);
  quant::Shape shape{1, columns, &row, row.groups[0], row.dtype.value_or(quant::DType::f32)};
  quant::check_shape(shape, "of blocks");
  const std::string_view bytes = blocks;
  shape.out = count_rows(bytes.size(), shape.file_bytes(quant::kCodes));
  py::array_t<float> out({py::ssize_t(shape.out), py::ssize_t(columns)});
  float* rows = out.mutable_data();
  unlocked([&] {
    std::vector<std::byte> planes(shape.nbytes());
    quant::transcode(shape, std::as_bytes(std::span(bytes)), 0, planes.data(), 1);
    expand(quant::contiguous(shape, planes.data()), rows);
  });
  return out;
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

// The same of a matrix whose tensors are planes: the bytes of each, in their order. Of elements for
// several rows, each row has its own.
py::array_t<float> decode_planes(const std::string& format, uint32_t columns, uint32_t group,
                                 const std::string& dtype, const std::vector<Bytes>& tensors) {
  quant::Format row = quant::find_format(format);
  quant::Shape shape{1, columns, &row, group, quant::dtype_of(dtype)};
  quant::check_shape(shape, "of planes");
  for (quant::Plane& plane : row.planes) plane.rows = 1;
  std::vector<size_t> numbers;
  for (size_t plane = 0; plane < quant::kPlanes; ++plane)
    if (shape.format->in_file(plane)) numbers.push_back(plane);
  if (row.transcode != nullptr || tensors.size() != numbers.size())
    throw FormatError("[bindings] expected ", numbers.size(), " planes of ", format, ", found ",
                      tensors.size());
  shape.out = count_rows(tensors[0].nbytes(), shape.row_bytes(quant::kCodes));
  std::vector<std::byte> planes;
  planes.reserve(shape.nbytes());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const std::span<const uint8_t> from(tensors[i].data(), tensors[i].size());
    if (from.size() != shape.plane_bytes(numbers[i]))
      throw FormatError("[bindings] expected ", shape.plane_bytes(numbers[i]), " bytes, found ",
                        from.size());
    const auto bytes = std::as_bytes(from);
    planes.insert(planes.end(), bytes.begin(), bytes.end());
  }
  py::array_t<float> out({py::ssize_t(shape.out), py::ssize_t(columns)});
  float* rows = out.mutable_data();
  unlocked([&] { expand(quant::contiguous(shape, planes.data()), rows); });
  return out;
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

// MLX's affine codes: the bit stream, scales and biases (n / group).
py::tuple quantize(const Floats& values, uint32_t bits, uint32_t group) {
  const quant::Format& row = quant::find_format(cat("affine", bits));
  if (std::ranges::find(row.groups, group) == row.groups.end() || values.size() % group)
    throw FormatError("[bindings] expected whole groups of numbers, found ", values.size(), " of ",
                      group);
  const std::span<const float> numbers(values.data(), values.size());
  py::array_t<uint8_t> codes(py::ssize_t(numbers.size() * bits / 8));
  py::array_t<float> scales(py::ssize_t(numbers.size() / group)), biases(scales.size());
  auto* stream = reinterpret_cast<std::byte*>(codes.mutable_data());
  float *scale = scales.mutable_data(), *bias = biases.mutable_data();
  if (!unlocked([&] { return quant::quantize(numbers, bits, group, stream, scale, bias); }))
    throw FormatError("[bindings] expected finite numbers whose range is finite");
  return py::make_tuple(codes, scales, biases);
}

// Whole blocks into planes, one behind the other.
void transcode(const std::string& format, const py::bytes& blocks, Bytes& planes) {
  const quant::Format& row = quant::find_format(format);
  const std::string_view bytes = blocks;
  if (row.transcode == nullptr || bytes.size() % row.block_bytes)
    throw FormatError("[bindings] expected whole blocks, found ", bytes.size(), " bytes of ",
                      format);
  quant::Shape shape{1, 0, &row, row.groups[0], row.dtype.value_or(quant::DType::f32)};
  shape.in = static_cast<uint32_t>(bytes.size() / row.block_bytes * row.block_columns);
  quant::check_shape(shape, "of blocks");
  if (static_cast<uint64_t>(planes.size()) != shape.nbytes())
    throw FormatError("[bindings] expected room for ", shape.nbytes(), " bytes, found ",
                      planes.size());
  quant::transcode(shape, std::as_bytes(std::span(bytes)), 0,
                   reinterpret_cast<std::byte*>(planes.mutable_data()), 1);
}

}  // namespace

void register_formats(py::module_& module) {
  module.def("formats", &formats);
  module.def("decode", &decode, "format"_a, "columns"_a, "blocks"_a);
  module.def("decode_planes", &decode_planes, "format"_a, "columns"_a, "group"_a, "dtype"_a,
             "tensors"_a);
  module.def("quantize", &quantize, "values"_a, "bits"_a, "group"_a);
  module.def("transcode", &transcode, "format"_a, "blocks"_a, "planes"_a.noconvert());
  module.def("tensors", &tensors, "format"_a, "columns"_a, "group"_a, "dtype"_a);
}

}  // namespace moeflux::bindings
