#include "model/weight_reader.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace moeflux::model {

using quant::DType;

namespace {
constexpr uint32_t kReaders = io::kReadThreads - 1;  // with the caller, who reads vectors

void require_finite(bool is_finite, const std::string& name, const std::string& file) {
  if (!is_finite)
    throw FormatError("[model::WeightReader] expected finite numbers, found NaN or infinity in ",
                      name, " (", file, ")");
}
}  // namespace

void check_finite(const std::byte* data, uint64_t count, DType dtype, const std::string& name,
                  const std::string& file) {
  require_finite(quant::all_finite(data, count, dtype), name, file);
}

WeightReader::WeightReader(std::vector<std::shared_ptr<io::File>> files, base::Arena& arena,
                           Weights& weights, DecodeRow decode)
    : files_(std::move(files)),
      arena_(arena),
      weights_(weights),
      decode_(std::move(decode)),
      bounce_(arena, io::kBounceBytes, "read buffer"),
      queue_(arena, kReaders) {}

uint64_t WeightReader::bytes(const base::Arena& arena) {
  return arena.booked_bytes(io::kBounceBytes) + io::ReadQueue::bytes(arena, kReaders);
}

std::byte* WeightReader::allocate(uint64_t nbytes, const std::string& name) {
  weights_.memory.emplace_back(arena_, nbytes, "resident tensor " + name);
  return weights_.memory.back().mapped();
}

void WeightReader::check_range(const TensorRef& tensor, uint64_t offset, uint64_t nbytes) const {
  if (tensor.file >= files_.size())
    throw FormatError("[model::WeightReader] no file for tensor ", tensor.name);
  if (offset > tensor.nbytes || nbytes > tensor.nbytes - offset)
    throw FormatError("[model::WeightReader] expected ", offset + nbytes, " bytes, found ",
                      tensor.nbytes, " (tensor ", tensor.name, " in ", files_[tensor.file]->path(),
                      ")");
}

uint64_t MatrixSource::n_rows() const {
  if (rows.empty()) return shape.out;
  uint64_t n = 0;
  for (const auto& [begin, count] : rows) n += count;
  return n;
}

const float* WeightReader::vector(const VectorSource& source) {
  const uint64_t width = source.matrix ? 1 : quant::dtype_bytes(source.tensor.dtype);
  if (source.stacks.empty()) check_range(source.tensor, 0, source.count * width);
  float* out = reinterpret_cast<float*>(
      allocate(uint64_t(source.count) * sizeof(float), source.tensor.name));
  if (!source.stacks.empty())
    slices(source, out);
  else if (source.matrix)
    floats(*source.matrix, out);
  else
    numbers(source.tensor, 0, source.count, out);
  const bool changes = source.add != 0 || source.mul != 1;
  if (changes && !files_[source.tensor.file]->is_hole())
    for (uint32_t i = 0; i < source.count; ++i) out[i] = out[i] * source.mul + source.add;
  return out;
}

void WeightReader::numbers(const TensorRef& tensor, uint64_t begin, uint64_t count, float* out) {
  constexpr uint64_t kPiece = 4096;  // numbers
  alignas(64) std::byte raw[kPiece * sizeof(float)];
  const uint64_t width = quant::dtype_bytes(tensor.dtype);
  check_range(tensor, begin * width, count * width);
  io::File& file = *files_[tensor.file];
  for (uint64_t done = 0; done < count; done += kPiece) {
    const uint64_t n = std::min(kPiece, count - done);
    io::read_exact(file, tensor.offset + (begin + done) * width, {raw, n * width},
                   bounce_.mapped());
    if (file.is_hole()) continue;  // no page of `out` is touched
    check_finite(raw, n, tensor.dtype, "tensor " + tensor.name, file.path());
    quant::to_float(raw, n, tensor.dtype, out + done);
  }
}

void WeightReader::floats(const MatrixSource& source, float* out) {
  const quant::Shape& shape = source.shape;
  quant::check_shape(shape, source.name());
  const quant::Format& format = *shape.format;
  if (format.planes[quant::kCodes].float8 != quant::Float8::e4m3 ||
      format.planes[quant::kScales].bits)
    throw FormatError("[model::WeightReader] expected numbers, found ", format.name, " (tensor ",
                      source.name(), ")");
  const TensorRef &codes = *source.planes[quant::kCodes], &scale = *source.planes[quant::kScales];
  const uint64_t groups = (shape.in + shape.group - 1) / shape.group;
  const uint64_t of_rows = format.planes[quant::kScales].rows;
  std::vector<float> scales(groups * ((shape.out + of_rows - 1) / of_rows));
  numbers(scale, 0, scales.size(), scales.data());
  constexpr uint64_t kPiece = 16384;
  alignas(64) std::byte raw[kPiece];
  const uint64_t all = uint64_t(shape.out) * shape.in;
  check_range(codes, 0, all);
  io::File& file = *files_[codes.file];
  for (uint64_t begin = 0; begin < all; begin += kPiece) {
    const uint64_t n = std::min(kPiece, all - begin);
    io::read_exact(file, codes.offset + begin, {raw, n}, bounce_.mapped());
    if (file.is_hole()) continue;  // no page of `out` is touched
    require_finite(quant::all_finite(shape, quant::kCodes, {raw, n}), "tensor " + codes.name,
                   file.path());
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t row = (begin + i) / shape.in, column = (begin + i) % shape.in;
      out[begin + i] =
          quant::widen_e4m3(raw[i]) * scales[row / of_rows * groups + column / shape.group];
    }
  }
}

void WeightReader::slices(const VectorSource& source, float* out) {
  for (uint32_t slice = 0; slice < source.slices; ++slice)
    for (const Stack& stack : source.stacks) {
      quant::Shape shape = stack.matrix.shape;
      quant::check_shape(shape, stack.matrix.name());
      shape.out /= source.slices;
      for (const quant::Plane& plane : shape.format->planes)
        if (shape.out * source.slices != stack.matrix.shape.out || shape.out % plane.rows)
          throw FormatError("[model::WeightReader] expected ", source.slices,
                            " slices in whole blocks of rows, found ", stack.matrix.shape.out,
                            " rows (tensor ", stack.matrix.name(), ")");
      const uint64_t nbytes = quant::place_planes(shape, store::kPartAlignment).back();
      base::Memory planes(arena_, nbytes, "slice of " + stack.matrix.name());
      read_slice(stack.matrix, shape, slice, planes.mapped());
      const uint64_t numbers = uint64_t(shape.out) * shape.in;
      const io::File& file = *files_[stack.matrix.planes[quant::kCodes]->file];
      if (!file.is_hole()) {
        const std::string matrix_name = "tensor " + stack.matrix.name();
        quant::Matrix matrix{shape, {}};
        const auto places = quant::place_planes(shape, store::kPartAlignment);
        for (size_t plane = 0; plane < quant::kPlanes; ++plane)
          if (shape.format->planes[plane].name)
            matrix.planes[plane] = planes.mapped() + places[plane];
        if (!decode_) throw Error("[model::WeightReader] expected what decodes ", matrix_name);
        std::vector<float> row(shape.in);
        for (uint32_t i = 0; i < shape.out; ++i) {
          decode_(matrix, i, row.data());
          check_finite(reinterpret_cast<const std::byte*>(row.data()), shape.in, DType::f32,
                       matrix_name, file.path());
          for (uint32_t k = 0; k < shape.in; ++k)
            out[stack.turned ? uint64_t(k) * shape.out + i : uint64_t(i) * shape.in + k] = row[k];
        }
      }
      out += numbers;
    }
}

void WeightReader::read_slice(const MatrixSource& source, const quant::Shape& shape, uint32_t slice,
                              std::byte* data) {
  const quant::Format& format = *shape.format;
  const auto places = quant::place_planes(shape, store::kPartAlignment);
  for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
    if (!format.in_file(plane)) continue;
    const TensorRef& tensor = *source.planes[plane];
    const uint64_t nbytes = shape.file_bytes(plane);
    check_range(tensor, slice * nbytes, nbytes);
    io::File& file = *files_[tensor.file];
    if (file.is_hole()) continue;
    const std::string name = "tensor " + tensor.name;
    if (format.transcode) {
      const uint64_t unit = format.block_bytes;
      io::read_units(file, tensor.offset + slice * nbytes, nbytes, unit, bounce_.mapped(),
                     [&](uint64_t done, std::span<const std::byte> blocks) {
                       require_finite(quant::all_finite(quant::transcode(
                                          shape, blocks, done / unit, data, store::kPartAlignment)),
                                      name, file.path());
                     });
      continue;
    }
    const std::span<std::byte> piece(data + places[plane], nbytes);
    io::read_exact(file, tensor.offset + slice * nbytes, piece, bounce_.mapped());
    if (format.planes[plane].finite)
      require_finite(quant::all_finite(shape, plane, piece), name, file.path());
  }
}

const std::byte* WeightReader::rows(const MatrixSource& source, size_t plane) {
  const quant::Shape& shape = source.shape;
  const quant::Plane& format = shape.format->planes[plane];
  if (!source.planes[plane])
    throw FormatError("[model::WeightReader] expected ", format.name, " of ", source.name());
  const TensorRef& tensor = *source.planes[plane];
  const uint64_t row_bytes = shape.row_bytes(plane), of_rows = format.rows;
  quant::Shape made = shape;
  made.out = static_cast<uint32_t>(source.n_rows());
  std::byte* data = allocate(made.plane_bytes(plane), tensor.name);
  const auto read = [&](uint64_t offset, std::byte* out, uint64_t nbytes) {
    check_range(tensor, offset, nbytes);
    const auto& file = files_[tensor.file];
    io::ReadQueue::Check check;
    if (format.finite && !file->is_hole())
      check = [shape, plane, name = tensor.name, file](std::span<const std::byte> piece) {
        require_finite(quant::all_finite(shape, plane, piece), name, file->path());
      };
    queue_.add(file, tensor.offset + offset, {out, nbytes}, std::move(check));
  };
  std::byte* out = data;
  if (source.rows.empty() || of_rows == quant::kAll) {
    read(0, out, shape.plane_bytes(plane));
    return data;
  }
  for (const auto& range : source.rows) {
    const auto [begin, count] = range;
    if (begin % of_rows || (count % of_rows && &range != &source.rows.back()))
      throw FormatError("[model::WeightReader] expected rows in whole blocks of ", of_rows,
                        ", found ", count, " from ", begin, " on (tensor ", tensor.name, ")");
    const uint64_t nbytes = (count + of_rows - 1) / of_rows * row_bytes;
    read(begin / of_rows * row_bytes, out, nbytes);
    out += nbytes;
  }
  return data;
}

quant::Planes<const std::byte*> WeightReader::transcoded(const MatrixSource& source,
                                                         const quant::Shape& made) {
  const TensorRef& tensor = *source.planes[quant::kCodes];
  const uint64_t unit = made.format->block_bytes, row_blocks = made.in / made.format->block_columns;
  const auto& file = files_.at(tensor.file);
  const auto places = quant::place_planes(made, store::kPartAlignment);
  std::byte* data = allocate(places.back(), tensor.name);
  auto ranges = source.rows;
  if (ranges.empty()) ranges.emplace_back(0, made.out);
  uint64_t first = 0;  // of the blocks that are made
  for (const auto& [begin, count] : ranges) {
    const uint64_t offset = begin * row_blocks * unit, nbytes = count * row_blocks * unit;
    check_range(tensor, offset, nbytes);
    queue_.add(nbytes, unit,
               [=, at = tensor.offset + offset, name = tensor.name](uint64_t from, uint64_t n,
                                                                    std::byte* bounce) {
                 io::read_units(*file, at + from, n, unit, bounce,
                                [&](uint64_t done, std::span<const std::byte> blocks) {
                                  require_finite(quant::all_finite(quant::transcode(
                                                     made, blocks, first + (from + done) / unit,
                                                     data, store::kPartAlignment)),
                                                 name, file->path());
                                });
               });
    first += count * row_blocks;
  }
  quant::Planes<const std::byte*> planes{};
  for (size_t plane = 0; plane < quant::kPlanes; ++plane)
    if (made.format->planes[plane].name) planes[plane] = data + places[plane];
  return planes;
}

ops::Linear WeightReader::matrix(const MatrixSource& source) {
  const quant::Shape& shape = source.shape;
  quant::check_shape(shape, source.name());
  if (source.planes[quant::kCodes]->nbytes != shape.file_bytes(quant::kCodes))
    throw FormatError("[model::WeightReader] expected ", shape.file_bytes(quant::kCodes),
                      " bytes, found ", source.planes[quant::kCodes]->nbytes, " (tensor ",
                      source.name(), ")");
  ops::Linear linear{{shape, {}}};
  quant::Matrix& m = linear.weight;
  if (source.n_rows() > UINT32_MAX)
    throw FormatError("[model::WeightReader] expected fewer than 2^32 rows, found ",
                      source.n_rows(), " (tensor ", source.name(), ")");
  m.shape.out = static_cast<uint32_t>(source.n_rows());
  if (shape.format->transcode)
    m.planes = transcoded(source, m.shape);
  else
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (shape.format->planes[plane].name) m.planes[plane] = rows(source, plane);
  if (source.bias) {
    if (source.rows.empty()) {
      linear.bias = vector({*source.bias, m.shape.out, 0});
    } else {  // it follows its matrix's rows
      float* picked = reinterpret_cast<float*>(
          allocate(uint64_t(m.shape.out) * sizeof(float), source.bias->name));
      linear.bias = picked;
      for (const auto& [begin, count] : source.rows) {
        numbers(*source.bias, begin, count, picked);
        picked += count;
      }
    }
  }
  return linear;
}

}  // namespace moeflux::model
