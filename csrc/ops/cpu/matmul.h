// Matmul: products of weights with rows of activations on a thread pool, and the fused feed-forward
// network. Prepares activations (inputs.h), splits weights by rows into tasks, and picks matvec or
// gemm by the number of rows: no choice changes a bit.
#pragma once
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/scratch.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

struct Dense {  // y (n, out) = x w^T (+ bias)
  const Linear* w;
  float* y;
  Precision precision;
};

class Matmul {
 public:
  Matmul(base::ThreadPool& pool, const Kernels& kernels, Precision precision, Buffers& buffers)
      : pool_(pool), kernels_(kernels), precision_(precision), buffers_(buffers) {}

  // (row, expert) pairs that experts() takes at a time: about a chunk's rows, some of them padding,
  // in whole blocks. Before the first call of the others. Of more rows x than that, those of a wide
  // pass, experts() prepares a batch's alone, and again where several experts want one.
  void set_batch_rows(uint32_t rows) { batch_rows_ = rows; }

  // All of `products` from the same rows x (n, in).
  void dense(std::span<const Dense> products, const Rows& x);
  // out (n, d_model) = what the network makes of x.
  void ffn(const GatedFfn& w, const Rows& x, float* out);
  // Each job's rows of x (n, in) through its expert, into the rows of `out` that it names.
  void experts(std::span<const ExpertJob> jobs, const Rows& x, float* out);

 private:
  struct Prepared {  // rows
    InputFormat format;
    const std::byte* records = nullptr;
    uint64_t stride = 0;
  };
  struct Input {  // rows that meet the same weights
    std::vector<const std::byte*> records;
    std::byte* packed = nullptr;  // null: matvec
  };
  struct Product {
    const Linear* w;
    InputFormat format;
    const Input* input;
    std::vector<float*> y;
  };
  struct Piece {
    const Product* product;
    uint32_t begin, end;  // rows of its weights
  };
  struct Batch;

  bool is_wide(const Rows& x) const { return x.n > batch_rows_; }
  void use(const Rows& x);  // forgets what was prepared from others
  Prepared prepare(const InputFormat& format, const Rows& x, uint32_t in);
  bool packs(const InputFormat& format, uint64_t n) const {
    return format.planes && n >= kernels_.gemm_from;
  }
  void pack(const Product& product, uint32_t block) const;  // 16 of its rows
  void multiply(const Product& product, uint32_t begin, uint32_t end, std::byte* scratch) const;
  uint32_t task_rows(const Product& product) const;
  void split(const Product& product, std::vector<Piece>& pieces) const;
  void run(std::span<const Piece> pieces);
  void take_rows(const Product& product, const ExpertJob& job, const Rows& x, Input& input,
                 Batch& batch);
  void prepare_rows(const Batch& batch);
  void plan_batch(std::span<const ExpertJob> jobs, const Rows& x, float* out, Batch& batch);
  void run_batch(std::span<const ExpertJob> jobs, const Rows& x, float* out);

  base::ThreadPool& pool_;
  const Kernels& kernels_;
  const Precision precision_;
  Buffers& buffers_;
  uint32_t batch_rows_ = 0;
  uint64_t id_ = 0;                 // of the rows in use
  std::vector<Prepared> prepared_;  // from them
};

}  // namespace moeflux::ops::cpu
