// CpuOps: the stages on this machine's cores. A stage computes in the calling thread and its pool,
// so every ticket is done when it is made (docs/architecture.md says why).
// Work is split by output rows, heads or tokens, never inside a sum: thread counts change nothing.
#pragma once
#include <initializer_list>

#include "base/thread_pool.h"
#include "ops/cpu/matmul.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

constexpr CacheType cache_type_of(Precision precision) {  // unless another is asked for
  return precision == Precision::float32 ? CacheType::f32 : CacheType::bf16;
}

class CpuOps final : public Ops {
 public:
  CpuOps(base::Arena& arena, const Kernels& kernels, int n_threads, Precision precision,
         CacheType cache_type)
      : arena_(arena),
        pool_(n_threads),
        kernels_(kernels),
        precision_(precision),
        cache_type_(cache_type) {}
  CpuOps(base::Arena& arena, const Kernels& kernels, int n_threads, Precision precision)
      : CpuOps(arena, kernels, n_threads, precision, cache_type_of(precision)) {}

  const char* name() const override { return kernels_.name; }
  uint64_t scratch_bytes(const Workload& workload) const override;
  void reserve(const Workload& workload) override;
  void set_poll(std::function<void()> poll) override { pool_.set_poll(std::move(poll)); }
  std::unique_ptr<Ticket> submit(std::function<void()> on_done) override;
  void abandon() override {}
  void each(uint32_t n, const std::function<void(uint32_t)>& f) override {
    if (n == 1) return f(0);
    pool_.parallel_for(static_cast<int>(n), [&](int i, int) { f(static_cast<uint32_t>(i)); });
  }
  Counts counts() const override { return {pool_.jobs(), {}}; }
  CacheForm cache_form(const CacheShape& cache) const override;
  void embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) override;
  void mix(const Mixer& w, Segments segments, const Rows& normed, float* x) override {
    std::visit([&](const auto& mixer) { ops::mix(*this, mixer, segments, normed, x); }, w);
  }
  void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
            float* out) override;
  void route(const Router& w, const Rows& normed, const Routing& out) override;
  void ffn(const GatedFfn& w, const Rows& normed, float* out) override;
  bool takes_passes() const override { return true; }
  void experts(std::span<const ExpertJob> jobs, const Rows& normed, float* expert_out) override;
  void combine(const Routing& routing, uint32_t top_k, const float* expert_out,
               const Linear* shared_gate, const Rows& normed, const float* shared, uint32_t dim,
               float* x) override;
  void combine_normed(const Routing& routing, uint32_t top_k, const float* expert_out,
                      const Sandwich& norms, const float* beside, uint32_t n, uint32_t dim,
                      float* x) override;
  void to_latent(const Linear& w, const Rows& normed, float* out) override;
  void combine_latent(const Routing& routing, uint32_t top_k, const float* expert_out,
                      const Linear& w, const float* shared, uint32_t n, float* x) override;
  void scale(const float* by, uint64_t n, float* x) override;
  void add(const float* y, uint64_t n, float* x) override;
  void head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) override;

  // For mixers.
  base::ThreadPool& pool() { return pool_; }
  const Kernels& kernels() const { return kernels_; }
  Precision precision() const { return precision_; }
  Buffers& buffers() { return buffers_; }
  float* worker_floats(uint64_t floats) {  // (pool_.size(), floats)
    buffers_.workers.start();
    return buffers_.workers.take(pool_.size() * floats);
  }
  void project(std::initializer_list<Dense> products, const Rows& x) {
    matmul_.dense({products.begin(), products.size()}, x);
  }
  struct RopeKey {  // what buffers().rope holds
    const float* inv_freq = nullptr;
    float scale = 0;
    uint32_t half = 0;
    std::vector<uint32_t> positions;
    bool operator==(const RopeKey&) const = default;
  } rope_key;

 private:
  CpuOps(const CpuOps& of, base::ThreadPool::Idle idle)
      : arena_(of.arena_),
        pool_(of.pool_.size(), idle),
        kernels_(of.kernels_),
        precision_(of.precision_),
        cache_type_(of.cache_type_) {}
  Buffers needs(const Workload& work) const;  // what reserve() books
  void rehearse(const Workload& work);
  base::Arena& arena_;
  base::ThreadPool pool_;
  const Kernels& kernels_;
  const Precision precision_;
  const CacheType cache_type_;
  base::Booking stacks_;  // of the pool's threads
  Buffers buffers_;       // booked by reserve()
  Matmul matmul_{pool_, kernels_, precision_, buffers_};
};

}  // namespace moeflux::ops::cpu
