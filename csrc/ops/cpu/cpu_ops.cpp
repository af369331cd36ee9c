#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>

namespace moeflux::ops::cpu {

CpuOps::CpuOps(base::ThreadPool& pool, const Kernels& kernels, const ScratchPlan& plan,
               base::Account& account)
    : pool_(pool),
      kernels_(kernels),
      precision_(plan.precision()),
      matmul_(pool, kernels, plan, account),
      stage_(account, plan.stage_floats() * sizeof(float), "stage buffers"),
      span_states_(account, plan.span_state_floats() * sizeof(float), "attention states"),
      rope_(account, plan.rope_floats() * sizeof(float), "rotary table") {}

void CpuOps::embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) {
  pool_.parallel_for(static_cast<int>(tokens.size()), [&](int i, int) {
    kernels_.dequant_row(table, tokens[i], x + uint64_t(i) * table.in);
  });
}

void CpuOps::rms_norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                      float* out) const {
  pool_.parallel_for(static_cast<int>(n), [&](int i, int) {
    kernels_.rms_norm(x + uint64_t(i) * dim, weight, dim, eps, out + uint64_t(i) * dim);
  });
}

void CpuOps::norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                  float* out) {
  rms_norm(weight, eps, x, n, dim, out);
  matmul_.keep(out, n);  // router, experts and shared expert read it
}

void CpuOps::add(const float* y, uint64_t n, float* x) {
  for (uint64_t i = 0; i < n; ++i) x[i] += y[i];
}

// Logits are float32 whatever the precision of the layers.
void CpuOps::linear(const Linear& w, const float* x, uint32_t n, float* y) {
  project({{&w, y, Precision::float32}}, x, n);
}

void CpuOps::ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) {
  matmul_.ffn(w, normed, n, out);
}

void CpuOps::experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) {
  matmul_.experts(jobs, normed, expert_out);
}

void CpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const float* normed, const float* shared,
                     uint32_t n, uint32_t dim, float* x) {
  std::vector<float> gates(n);
  if (shared_gate) project({{shared_gate, gates.data(), Precision::float32}}, normed, n);
  pool_.parallel_for(static_cast<int>(n), [&](int row, int) {
    std::vector<float> total(dim);
    for (uint32_t rank = 0; rank < top_k; ++rank) {  // ascending expert id
      const uint64_t pair = uint64_t(row) * top_k + rank;
      kernels_.axpy(routing.weights[pair], expert_out + pair * dim, total.data(), dim);
    }
    if (shared)
      kernels_.axpy(shared_gate ? 1.0f / (1.0f + std::exp(-gates[row])) : 1.0f,
                    shared + uint64_t(row) * dim, total.data(), dim);
    float* out = x + uint64_t(row) * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] += total[i];
  });
}

}  // namespace moeflux::ops::cpu
