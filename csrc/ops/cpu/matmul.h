// Matmul: products of weights with rows of activations on a thread pool, and the fused feed-forward
// network. Prepares activations (inputs.h), splits weights by rows into tasks, and picks matvec or
// gemm by the number of rows: no choice changes a bit.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/scratch_plan.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

struct Dense {  // y (n, out) = x w^T (+ bias)
  const Linear* w;
  float* y;
  Precision precision;
};

class Matmul {
 public:
  Matmul(base::ThreadPool& pool, const Kernels& kernels, const ScratchPlan& plan,
         base::Arena& arena);

  // All of `products` from the same rows x (n, in).
  void dense(std::span<const Dense> products, const float* x, uint32_t n);
  // out (n, d_model) = down(silu(gate x) * up x).
  void ffn(const GatedFfn& w, const float* x, uint32_t n, float* out);
  // Each job's rows of x (, in) through its expert, into the rows of `out` that it names.
  void experts(std::span<const ExpertJob> jobs, const float* x, float* out);

  // Several stages read the normed input x (n, in) of a layer: what they prepare from it is kept,
  // until the next call of keep or the use of other rows. To be called whenever x has been written.
  void keep(const float* x, uint32_t n);
  std::byte* worker_scratch(int worker) const { return scratch_.data() + worker * worker_bytes_; }

 private:
  struct Rows {  // prepared
    InputFormat format;
    uint32_t in = 0;
    const std::byte* records = nullptr;
    uint64_t stride = 0;
  };
  struct Kept {
    Rows rows;
    uint32_t n;
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

  void use(const float* x);  // forgets what was prepared from others
  Rows prepare(const InputFormat& format, const float* x, uint32_t n, uint32_t in);
  bool packs(const InputFormat& format, uint64_t n) const {
    return format.planes && n >= kernels_.gemm_from;
  }
  void pack(const Product& product, uint32_t block) const;  // 16 of its rows
  void multiply(const Product& product, uint32_t begin, uint32_t end, int worker) const;
  uint32_t task_rows(const Product& product) const;
  void split(const Product& product, std::vector<Piece>& pieces) const;
  void run(std::span<const Piece> pieces);
  void plan_batch(std::span<const ExpertJob> jobs, const float* x, uint32_t n, float* out,
                  Batch& batch);
  void run_batch(std::span<const ExpertJob> jobs, const float* x, uint32_t n, float* out);

  base::ThreadPool& pool_;
  const Kernels& kernels_;
  const Precision precision_;
  const uint32_t hidden_rows_;
  const uint64_t worker_bytes_;
  base::Memory scratch_;         // (n_threads, worker_bytes_)
  base::Memory records_;         // prepared rows, all formats of a stage
  base::Memory packed_;          // the same rows, packed
  base::Memory hidden_;          // (hidden_rows_, 2, d_ff): gate and up
  base::Memory hidden_records_;  // (hidden_rows_) silu(gate) * up
  base::Memory hidden_packed_;
  const float* kept_x_ = nullptr;
  uint32_t kept_n_ = 0;
  std::vector<Kept> kept_;    // of the x in use, kept_x_ or another
  uint64_t record_next_ = 0;  // bytes of records_ in use
};

}  // namespace moeflux::ops::cpu
