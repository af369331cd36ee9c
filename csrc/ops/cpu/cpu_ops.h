// CpuOps: the stages on this machine's cores. A stage computes in the calling thread and its pool,
// so every ticket is done when it is made (docs/architecture.md says why).
// Work is split by output rows, heads or tokens, never inside a sum: thread counts change nothing.
#pragma once
#include <memory>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

class CpuOps final : public Ops {
 public:
  CpuOps(base::Arena& arena, const Kernels& kernels, int n_threads);

  const char* name() const override { return kernels_.name; }
  uint64_t scratch_bytes(const Workload& workload) const override;
  void reserve(const Workload& workload) override;
  void set_poll(std::function<void()> poll) override { pool_.set_poll(std::move(poll)); }
  std::unique_ptr<Ticket> submit(std::function<void()> on_done) override;
  void abandon() override {}
  void embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) override;
  void attention(const Attention& w, std::span<const Segment> segments, uint32_t n,
                 float* x) override;
  void delta_net(const DeltaNet& w, std::span<const Segment> segments, uint32_t n,
                 float* x) override;
  void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
            float* out) override;
  void route(const Router& w, const float* normed, uint32_t n, const Routing& out) override;
  void ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) override;
  void experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) override;
  void combine(const Routing& routing, uint32_t top_k, const float* expert_out,
               const Linear* shared_gate, const float* normed, const float* shared, uint32_t n,
               uint32_t dim, float* x) override;
  void add(const float* y, uint64_t n, float* x) override;
  void head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) override;

 private:
  struct Product {  // y[i][row] = w[row] . x[i] (+ bias)
    const Linear* w;
    std::vector<const float*> x;
    std::vector<float*> y;
  };
  static Product dense(const Linear& w, const float* x, uint32_t n, float* y);
  void multiply(std::span<const Product> products);
  void linear(const Linear& w, const float* x, uint32_t n, float* y);
  float* worker_scratch(int worker) const { return scratch_.as<float>() + worker * worker_floats_; }
  struct Bump;  // hands out pieces of rows_ within one stage

  base::Arena& arena_;
  base::ThreadPool pool_;
  const Kernels& kernels_;
  uint64_t worker_floats_ = 0;
  base::Booking stacks_;  // of the pool's threads
  base::Memory scratch_;  // (n_threads, worker_floats_): expanded weight rows, attention scores
  base::Memory rows_;     // stage buffers
  base::Memory hidden_;   // FFN hidden buffers
};

}  // namespace moeflux::ops::cpu
