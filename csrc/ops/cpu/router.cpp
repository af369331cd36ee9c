#include <algorithm>

#include "ops/by_logit.h"
#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

void CpuOps::route(const Router& w, const float* normed, uint32_t n, const Routing& out) {
  const uint32_t n_experts = w.n_experts, top_k = w.top_k;
  project({{&w.gate, out.logits, Precision::float32}}, normed, n);
  buffers_.stage.start();
  float* p = buffers_.stage.take(n_experts);
  uint32_t* order = buffers_.stage.take<uint32_t>(n_experts);
  if (pool_.idle()) return;
  for (uint64_t row = 0; row < n; ++row) {
    const float* logits = out.logits + row * n_experts;
    std::copy_n(logits, n_experts, p);
    kernels_.softmax(p, n_experts);
    for (uint32_t i = 0; i < n_experts; ++i) order[i] = i;
    // By logit: softmax may round two of them together.
    std::partial_sort(order, order + top_k, order + n_experts, ByLogit{logits});
    std::sort(order, order + top_k);
    float total = 0;
    for (uint32_t i = 0; i < top_k; ++i) total += p[order[i]];
    for (uint32_t i = 0; i < top_k; ++i) {
      out.experts[row * top_k + i] = order[i];
      out.weights[row * top_k + i] = w.normalise ? p[order[i]] / total : p[order[i]];
    }
  }
}

}  // namespace moeflux::ops::cpu
