#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>

namespace moeflux::ops::cpu {

namespace {
class Finished final : public Ticket {
 public:
  bool done() const override { return true; }
  void wait() override {}
};
}  // namespace

CpuOps::CpuOps(base::Arena& arena, const Kernels& kernels, int n_threads, Precision precision)
    : arena_(arena), pool_(n_threads), kernels_(kernels), precision_(precision) {}

uint64_t CpuOps::scratch_bytes(const Workload& workload) const {
  return (pool_.size() - 1) * base::kStackBytes +
         ScratchPlan(workload, precision_, kernels_).bytes(arena_, pool_.size());
}

void CpuOps::reserve(const Workload& workload) {
  const ScratchPlan plan(workload, precision_, kernels_);
  stacks_ =
      base::Booking(arena_.account(), (pool_.size() - 1) * base::kStackBytes, "thread stacks");
  matmul_ = std::make_unique<Matmul>(pool_, kernels_, plan, arena_);
  stage_ = base::Memory(arena_, plan.stage_floats() * sizeof(float), "stage buffers");
  span_states_ = base::Memory(arena_, plan.span_state_floats() * sizeof(float), "attention states");
  rope_ = base::Memory(arena_, plan.rope_floats() * sizeof(float), "rotary table");
}

std::unique_ptr<Ticket> CpuOps::submit(std::function<void()>) {
  return std::make_unique<Finished>();
}

void CpuOps::embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) {
  pool_.parallel_for(static_cast<int>(tokens.size()), [&](int i, int) {
    kernels_.dequant_row(table, tokens[i], x + uint64_t(i) * table.in);
  });
}

void CpuOps::rms_norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                      float* out) {
  pool_.parallel_for(static_cast<int>(n), [&](int i, int) {
    kernels_.rms_norm(x + uint64_t(i) * dim, weight, dim, eps, out + uint64_t(i) * dim);
  });
}

void CpuOps::norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                  float* out) {
  rms_norm(weight, eps, x, n, dim, out);
  matmul_->keep(out, n);  // router, experts and shared expert read it
}

void CpuOps::add(const float* y, uint64_t n, float* x) {
  for (uint64_t i = 0; i < n; ++i) x[i] += y[i];
}

// Logits are float32 whatever the precision of the layers.
void CpuOps::head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) {
  const uint32_t d_model = w.linear.weight.in, n = static_cast<uint32_t>(rows.size());
  float* normed = stage_.as<float>();
  for (uint64_t i = 0; i < n; ++i)
    rms_norm(w.norm, w.eps, x + uint64_t(rows[i]) * d_model, 1, d_model, normed + i * d_model);
  project({{&w.linear, logits, Precision::float32}}, normed, n);
}

void CpuOps::ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) {
  matmul_->ffn(w, normed, n, out);
}

void CpuOps::experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) {
  matmul_->experts(jobs, normed, expert_out);
}

void CpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const float* normed, const float* shared,
                     uint32_t n, uint32_t dim, float* x) {
  float* gates = stage_.as<float>();
  if (shared_gate) project({{shared_gate, gates, Precision::float32}}, normed, n);
  pool_.parallel_for(static_cast<int>(n), [&](int row, int worker) {
    float* total = reinterpret_cast<float*>(matmul_->worker_scratch(worker));
    std::fill_n(total, dim, 0.0f);
    for (uint32_t rank = 0; rank < top_k; ++rank) {  // ascending expert id
      const uint64_t pair = uint64_t(row) * top_k + rank;
      kernels_.axpy(routing.weights[pair], expert_out + pair * dim, total, dim);
    }
    if (shared)
      kernels_.axpy(shared_gate ? 1.0f / (1.0f + std::exp(-gates[row])) : 1.0f,
                    shared + uint64_t(row) * dim, total, dim);
    float* out = x + uint64_t(row) * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] += total[i];
  });
}

}  // namespace moeflux::ops::cpu
