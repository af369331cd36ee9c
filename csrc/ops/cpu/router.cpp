#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

void CpuOps::route(const Router& w, const float* normed, uint32_t n, const Routing& out) {
  const uint32_t n_experts = w.n_experts, top_k = w.top_k;
  project({{&w.gate, out.logits, Precision::float32}}, normed, n);
  std::vector<uint32_t> order(n_experts);
  for (uint64_t row = 0; row < n; ++row) {
    const float* logits = out.logits + row * n_experts;
    std::vector<float> p(logits, logits + n_experts);
    kernels_.softmax(p.data(), n_experts);
    for (uint32_t i = 0; i < n_experts; ++i) order[i] = i;
    // By logit (softmax may round two of them together); NaN sorts last, ties take the lower index.
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [&](uint32_t i, uint32_t j) {
                        const bool nan_i = std::isnan(logits[i]), nan_j = std::isnan(logits[j]);
                        if (nan_i != nan_j) return nan_j;
                        if (nan_i || logits[i] == logits[j]) return i < j;
                        return logits[i] > logits[j];
                      });
    std::sort(order.begin(), order.begin() + top_k);
    float total = 0;
    for (uint32_t i = 0; i < top_k; ++i) total += p[order[i]];
    for (uint32_t i = 0; i < top_k; ++i) {
      out.experts[row * top_k + i] = order[i];
      out.weights[row * top_k + i] = w.normalise ? p[order[i]] / total : p[order[i]];
    }
  }
}

}  // namespace moeflux::ops::cpu
