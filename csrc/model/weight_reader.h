// WeightReader: checked reads of resident tensors into booked memory. Sources come from Python's
// tensor table; every range is checked again here, against shapes and the real files. Matrices are
// read by several threads while the next ones are asked for: they are there after finish(). The
// error of a matrix may come out of any call after its own; where a call fails, finish() throws
// what failed before it.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/read_queue.h"
#include "model/model.h"
#include "model/node.h"

namespace moeflux::model {

struct MatrixSource {
  quant::Shape shape;  // of what the file holds
  quant::Planes<std::optional<TensorRef>> planes;
  std::optional<TensorRef> bias;
  // Rows (begin, count) of the stored matrix that make this one, in order; empty: all of them.
  std::vector<std::pair<uint32_t, uint32_t>> rows;

  const std::string& name() const { return planes[quant::kCodes]->name; }
  uint64_t n_rows() const;  // of the matrix that is made
};

// Makes numbers of a row of a matrix.
using DecodeRow = std::function<void(const quant::Matrix& matrix, uint32_t row, float* out)>;

// A matrix of which a vector has slices; turned: the rows of each are its columns.
struct Stack {
  MatrixSource matrix;
  bool turned = false;
};

struct VectorSource {
  TensorRef tensor;
  uint32_t count = 0;
  float add = 0;  // 1 for zero-centred norms, stored as w for a factor of 1 + w
  float mul = 1;  // multiplies the stored, before that
  std::optional<MatrixSource> matrix = {};  // of E4M3, whose numbers these are
  // Or of these: slice 0 of every stack, then slice 1 of every stack, ...; each has `slices`.
  std::vector<Stack> stacks = {};
  uint32_t slices = 0;
};

class WeightReader {
 public:
  WeightReader(std::vector<std::shared_ptr<io::File>> files, base::Arena& arena, Weights& weights,
               DecodeRow decode = {});
  // What a reader books for as long as it lives.
  static uint64_t bytes(const base::Arena& arena);
  const float* vector(const VectorSource& source);  // as f32, whatever the file holds
  ops::Linear matrix(const MatrixSource& source);   // its numbers: after finish()
  // Returns when all matrices are there. Throws IoError, FormatError (NaN or infinity).
  void finish() { queue_.finish(); }

 private:
  void check_range(const TensorRef& tensor, uint64_t offset, uint64_t nbytes) const;
  std::byte* allocate(uint64_t nbytes, const std::string& name);
  // Numbers [begin, begin + count) of a tensor as f32, all finite.
  void numbers(const TensorRef& tensor, uint64_t begin, uint64_t count, float* out);
  // All numbers of a matrix of E4M3, finite.
  void floats(const MatrixSource& source, float* out);
  // All slices of the stacks.
  void slices(const VectorSource& source, float* out);
  // The planes of a slice of a matrix into `data`, where place_planes places those of `shape`.
  void read_slice(const MatrixSource& source, const quant::Shape& shape, uint32_t slice,
                  std::byte* data);
  // Rows of a plane as `source` picks them.
  const std::byte* rows(const MatrixSource& source, size_t plane);
  // Planes of the blocks of those rows; `made` is the shape that they make.
  quant::Planes<const std::byte*> transcoded(const MatrixSource& source, const quant::Shape& made);

  std::vector<std::shared_ptr<io::File>> files_;
  base::Arena& arena_;
  Weights& weights_;
  const DecodeRow decode_;
  base::Memory bounce_;  // of vectors, which are read in the call
  io::ReadQueue queue_;  // last: its readers write what is above
};

// Throws FormatError when a NaN or an infinity is among `count` values of `dtype`.
void check_finite(const std::byte* data, uint64_t count, quant::DType dtype,
                  const std::string& name, const std::string& file);

}  // namespace moeflux::model
