#include "ops/cpu/matmul.h"

#include <algorithm>

namespace moeflux::ops::cpu {

namespace {
// A task is about this many weight bytes: below it, handing out work costs more than doing it (a
// microsecond, in which a core reads some 15 KB).
constexpr uint64_t kTaskBytes = 64 * 1024;
constexpr uint32_t kGemmTaskRows = 64;     // what gemm unpacks at a time
constexpr uint32_t kPrepareFloats = 4096;  // of a task: some microseconds
}  // namespace

InputFormat input_format(const quant::Shape& w, Precision precision, const Kernels& kernels) {
  InputFormat format;
  if (w.format->has_floats()) {
    format.round_bf16 = precision != Precision::float32;
    format.plain_bf16 = format.round_bf16 && kernels.bf16_products && w.bits() == 0 &&
                        w.dtype == quant::DType::bf16;
    return format;
  }
  format.planes = code_planes(w.bits());
  format.group = w.group;
  format.digits = precision == Precision::float32 ? 3 : precision == Precision::bfloat16 ? 2 : 1;
  format.centred = format.digits == 3 || w.format->zero != 0;
  return format;
}

void Matmul::use(const Rows& x) {
  if (x.id != 0 && x.id == id_) return;
  id_ = x.id;
  prepared_.clear();
  buffers_.records.start();
}

Matmul::Prepared Matmul::prepare(const InputFormat& format, const Rows& x, uint32_t in) {
  for (const Prepared& prepared : prepared_)
    if (prepared.format == format) return prepared;
  const uint64_t n = x.n, stride = input_bytes(format, in);
  std::byte* records = buffers_.records.take<std::byte>(n * stride);
  const uint64_t rows = std::max(kPrepareFloats / std::max(in, 1u), 1u);
  pool_.parallel_for(static_cast<int>((n + rows - 1) / rows), [&](int task, int) {
    for (uint64_t row = task * rows; row < std::min<uint64_t>(n, (task + 1) * rows); ++row)
      kernels_.prepare(format, x.data + row * in, in, records + row * stride);
  });
  prepared_.push_back({format, records, stride});
  return prepared_.back();
}

void Matmul::pack(const Product& product, uint32_t block) const {
  const Input& input = *product.input;
  const uint32_t in = product.w->in();
  const std::byte* records[kBlockTokens];
  for (uint32_t t = 0; t < kBlockTokens; ++t) {
    const uint64_t row = uint64_t(block) * kBlockTokens + t;
    records[t] = row < input.records.size() ? input.records[row] : nullptr;
  }
  kernels_.pack(product.format, in, records,
                input.packed + block * packed_bytes(product.format, in));
}

void Matmul::multiply(const Product& product, uint32_t begin, uint32_t end,
                      std::byte* scratch) const {
  const quant::Matrix& w = product.w->weight;
  const uint32_t n = static_cast<uint32_t>(product.input->records.size());
  if (product.input->packed)
    kernels_.gemm(w, product.format, begin, end, product.input->packed, product.y.data(), n,
                  scratch);
  else
    kernels_.matvec(w, product.format, begin, end, product.input->records.data(), product.y.data(),
                    n);
  if (product.w->bias == nullptr) return;
  for (float* y : product.y)
    for (uint32_t row = begin; row < end; ++row) y[row] += product.w->bias[row];
}

uint32_t Matmul::task_rows(const Product& product) const {
  if (product.input->packed) return kGemmTaskRows;
  const quant::Shape& w = product.w->weight.shape;
  const uint64_t row_cost = std::max<uint64_t>(w.row_bytes() * product.input->records.size(), 1);
  const uint64_t rows = std::min<uint64_t>(kTaskBytes / row_cost, w.out);
  return static_cast<uint32_t>(base::round_up(std::max<uint64_t>(rows, 1), 4));
}

// Rows that follow each other go to matvec in one call, so that its stream of memory goes on. A
// task of gemm is work enough, and what is taken cannot be shared out again.
void Matmul::run(std::span<const Piece> pieces) {
  uint64_t gemm_bytes = 0;
  for (const Piece& piece : pieces)
    if (piece.product->input->packed)
      gemm_bytes = std::max(
          gemm_bytes, kernels_.gemm_scratch(piece.product->w->in(), piece.product->format.group));
  buffers_.workers.start();
  std::byte* scratch = buffers_.workers.take<std::byte>(gemm_bytes * pool_.size());
  const auto run_some = [&](int first, int last, int worker) {
    while (first < last) {
      const Piece& piece = pieces[first];
      uint32_t end = piece.end;
      for (++first; first < last && pieces[first].product == piece.product; ++first)
        end = pieces[first].end;
      multiply(*piece.product, piece.begin, end, scratch + worker * gemm_bytes);
    }
  };
  const int n = static_cast<int>(pieces.size());
  if (gemm_bytes)
    pool_.parallel_for(n, [&](int i, int worker) { run_some(i, i + 1, worker); });
  else
    pool_.parallel_ranges(n, run_some);
}

void Matmul::split(const Product& product, std::vector<Piece>& pieces) const {
  const uint32_t out = product.w->out();
  const uint32_t step = pool_.idle() ? out : task_rows(product);  // a dry run needs one piece
  for (uint32_t row = 0; row < out; row += step)
    pieces.push_back({&product, row, std::min(row + step, out)});
}

void Matmul::dense(std::span<const Dense> products, const Rows& x) {
  use(x);
  const uint32_t n = x.n;
  std::vector<Input> inputs;
  inputs.reserve(products.size());  // Products point into it
  std::vector<Product> ready;
  buffers_.packed.start();
  for (const Dense& dense : products) {
    const quant::Shape& w = dense.w->weight.shape;
    if (w.out == 0) continue;
    Product product{dense.w, input_format(w, dense.precision, kernels_), nullptr, {}};
    for (uint64_t i = 0; i < n; ++i) product.y.push_back(dense.y + i * w.out);
    for (const Product& other : ready)
      if (other.format == product.format) product.input = other.input;
    if (product.input == nullptr) {
      const Prepared rows = prepare(product.format, x, w.in);
      Input& input = inputs.emplace_back();
      product.input = &input;
      for (uint64_t i = 0; i < n; ++i) input.records.push_back(rows.records + i * rows.stride);
      if (packs(product.format, n)) {
        const uint32_t blocks = (n + kBlockTokens - 1) / kBlockTokens;
        input.packed = buffers_.packed.take<std::byte>(blocks * packed_bytes(product.format, w.in));
        pool_.parallel_for(static_cast<int>(blocks), [&](int block, int) { pack(product, block); });
      }
    }
    ready.push_back(std::move(product));
  }
  std::vector<Piece> pieces;
  for (const Product& product : ready) split(product, pieces);
  run(pieces);
}

void Matmul::ffn(const GatedFfn& w, const Rows& x, float* out) {
  ExpertJob job{w, {}, {}};
  for (uint32_t i = 0; i < x.n; ++i) {
    job.rows.push_back(i);
    job.pairs.push_back(i);
  }
  experts({&job, 1}, x, out);
}

void Matmul::experts(std::span<const ExpertJob> jobs, const Rows& x, float* out) {
  const bool wide = is_wide(x);
  if (!wide) use(x);
  // In batches that the hidden buffers hold; a packed job takes whole blocks.
  for (size_t begin = 0; begin < jobs.size();) {
    uint64_t rows = 0;
    size_t end = begin;
    for (; end < jobs.size(); ++end) {
      const uint64_t padded = base::round_up(jobs[end].rows.size(), kBlockTokens);
      if (end > begin && rows + padded > batch_rows_) break;
      rows += padded;
    }
    if (wide) use({x.data, x.n});
    run_batch(jobs.subspan(begin, end - begin), x, out);
    begin = end;
  }
}

}  // namespace moeflux::ops::cpu
