#include "model/weight_reader.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ops/cpu/kernels.h"

namespace moeflux::model {

using quant::DType;

namespace {
constexpr uint32_t kReaders = io::kReadThreads - 1;  // with the caller, who reads vectors
}  // namespace

void check_shape(const quant::Shape& shape, const std::string& name) {
  const auto fail = [&](const auto&... what) {
    throw FormatError("[model::WeightReader] ", what..., " (tensor ", name, ")");
  };
  if (shape.out == 0 || shape.in == 0) fail("expected a matrix with rows and columns, found none");
  if (shape.bits == 0) return;
  if (shape.bits != 2 && shape.bits != 3 && shape.bits != 4 && shape.bits != 5 && shape.bits != 6 &&
      shape.bits != 8)
    fail("expected 2, 3, 4, 5, 6 or 8 bits, found ", shape.bits);
  if (shape.group != 32 && shape.group != 64 && shape.group != 128)
    fail("expected groups of 32, 64 or 128, found ", shape.group);
  if (shape.in % shape.group != 0)
    fail("expected columns in whole groups of ", shape.group, ", found ", shape.in);
}

namespace {
// The exponent bits are all set in NaN and infinity, and only there: with the lowest of them added,
// they carry into the sign's place. Nothing but sums and ors, so that compilers make vectors of it.
template <class Word>
bool no_word_has_all(const std::byte* data, uint64_t count, Word mask) {
  constexpr Word kTop = Word(1) << (8 * sizeof(Word) - 1);
  const Word lowest = static_cast<Word>(kTop - mask);
  Word carries = 0;
  for (uint64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, data + i * sizeof(Word), sizeof(Word));
    carries = static_cast<Word>(carries | ((word & mask) + lowest));
  }
  return (carries & kTop) == 0;
}
}  // namespace

bool all_finite(const std::byte* data, uint64_t count, DType dtype) {
  if (dtype == DType::f32) return no_word_has_all<uint32_t>(data, count, 0x7f800000);
  return no_word_has_all<uint16_t>(data, count, dtype == DType::bf16 ? 0x7f80 : 0x7c00);
}

void check_finite(const std::byte* data, uint64_t count, DType dtype, const std::string& name,
                  const std::string& file) {
  if (!all_finite(data, count, dtype))
    throw FormatError("[model::WeightReader] expected finite numbers, found NaN or infinity in ",
                      name, " (", file, ")");
}

WeightReader::WeightReader(std::vector<std::shared_ptr<io::File>> files, base::Arena& arena,
                           Weights& weights)
    : files_(std::move(files)),
      arena_(arena),
      weights_(weights),
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

const WeightReader::Stored* WeightReader::find(const void* data) const {
  const auto found = stored_.find(data);
  return found == stored_.end() ? nullptr : &found->second;
}

const float* WeightReader::vector(const VectorSource& source) {
  check_range(source.tensor, 0, uint64_t(source.count) * quant::dtype_bytes(source.tensor.dtype));
  float* out = reinterpret_cast<float*>(
      allocate(uint64_t(source.count) * sizeof(float), source.tensor.name));
  numbers(source.tensor, 0, source.count, out);
  if (source.add != 0 && !files_[source.tensor.file]->is_hole())
    for (uint32_t i = 0; i < source.count; ++i) out[i] += source.add;
  stored_[out] = {source.tensor.name, 1, source.count};
  return out;
}

void WeightReader::numbers(const TensorRef& tensor, uint64_t begin, uint64_t count, float* out) {
  constexpr uint64_t kPiece = 4096;  // numbers
  alignas(64) std::byte raw[kPiece * sizeof(float)];
  const uint64_t width = quant::dtype_bytes(tensor.dtype);
  check_range(tensor, begin * width, count * width);
  io::File& file = *files_[tensor.file];
  quant::Matrix row;
  row.out = 1;
  row.dtype = tensor.dtype;
  row.weight = raw;
  for (uint64_t done = 0; done < count; done += row.in) {
    row.in = static_cast<uint32_t>(std::min(kPiece, count - done));
    io::read_exact(file, tensor.offset + (begin + done) * width, {raw, row.in * width},
                   bounce_.mapped());
    if (file.is_hole()) continue;  // no page of `out` is touched
    check_finite(raw, row.in, tensor.dtype, "tensor " + tensor.name, file.path());
    ops::cpu::kernels_portable()->dequant_row(row, 0, out + done);
  }
}

const std::byte* WeightReader::rows(const MatrixSource& source, const TensorRef& tensor,
                                    uint64_t row_bytes, std::optional<DType> checked) {
  uint64_t n_rows = source.rows.empty() ? source.shape.out : 0;
  for (const auto& [begin, count] : source.rows) n_rows += count;
  std::byte* data = allocate(n_rows * row_bytes, tensor.name);
  const auto read = [&](uint64_t offset, std::byte* out, uint64_t nbytes) {
    check_range(tensor, offset, nbytes);
    const auto& file = files_[tensor.file];
    io::ReadQueue::Check check;
    if (checked && !file->is_hole())
      check = [dtype = *checked, name = tensor.name, file](std::span<const std::byte> piece) {
        check_finite(piece.data(), piece.size() / quant::dtype_bytes(dtype), dtype, name,
                     file->path());
      };
    queue_.add(file, tensor.offset + offset, {out, nbytes}, std::move(check));
  };
  std::byte* out = data;
  if (source.rows.empty()) read(0, out, n_rows * row_bytes);
  for (const auto& [begin, count] : source.rows) {
    read(begin * row_bytes, out, count * row_bytes);
    out += count * row_bytes;
  }
  return data;
}

ops::Linear WeightReader::matrix(const MatrixSource& source) {
  check_shape(source.shape, source.weight.name);
  if (source.weight.nbytes != source.shape.out * source.shape.row_bytes())
    throw FormatError("[model::WeightReader] expected ",
                      source.shape.out * source.shape.row_bytes(), " bytes, found ",
                      source.weight.nbytes, " (tensor ", source.weight.name, ")");
  ops::Linear linear;
  quant::Matrix& m = linear.weight;
  static_cast<quant::Shape&>(m) = source.shape;
  m.weight = rows(source, source.weight, source.shape.row_bytes(), std::nullopt);
  if (!source.rows.empty()) {
    m.out = 0;
    for (const auto& [begin, count] : source.rows) m.out += count;
  }
  if (source.shape.bits) {
    if (!source.scales || !source.biases)
      throw FormatError("[model::WeightReader] expected scales and biases of ", source.weight.name);
    m.scales = rows(source, *source.scales, source.shape.scale_row_bytes(), m.dtype);
    m.biases = rows(source, *source.biases, source.shape.scale_row_bytes(), m.dtype);
  }
  if (source.bias) {
    if (source.rows.empty()) {
      linear.bias = vector({*source.bias, m.out, 0});
    } else {  // it follows its matrix's rows
      float* picked =
          reinterpret_cast<float*>(allocate(uint64_t(m.out) * sizeof(float), source.bias->name));
      linear.bias = picked;
      for (const auto& [begin, count] : source.rows) {
        numbers(*source.bias, begin, count, picked);
        picked += count;
      }
    }
  }
  stored_[m.weight] = {source.weight.name, m.out, m.in};
  return linear;
}

}  // namespace moeflux::model
