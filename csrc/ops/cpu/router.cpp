#include "ops/choose.h"
#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

void CpuOps::route(const Router& w, const Rows& normed, const Routing& out) {
  const uint32_t n_experts = w.n_experts, top_k = w.top_k;
  project({{&w.gate, out.logits, Precision::float32}}, normed);
  buffers_.stage.start();
  float* scores = buffers_.stage.take(n_experts);
  float* ranks = buffers_.stage.take(w.ranks() ? n_experts : 0);
  uint32_t* order = buffers_.stage.take<uint32_t>(n_experts);
  if (pool_.idle()) return;
  for (uint64_t row = 0; row < normed.n; ++row) {
    const float* logits = out.logits + row * n_experts;
    const std::span<uint32_t> experts(order, n_experts);
    std::iota(experts.begin(), experts.end(), 0);
    if (w.score == Score::softmax) {
      std::copy_n(logits, n_experts, scores);
      kernels_.softmax(scores, n_experts);
    } else {
      score(w.score, logits, experts, scores);
    }
    choose(rank(w, logits, scores, experts, ranks), top_k, experts);
    std::copy_n(order, top_k, out.experts + row * top_k);
    weigh(w, scores, {order, top_k}, out.weights + row * top_k);
  }
}

}  // namespace moeflux::ops::cpu
