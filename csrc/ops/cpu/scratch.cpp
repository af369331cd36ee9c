#include "ops/cpu/scratch.h"

#include <algorithm>

#include "base/arena.h"
#include "ops/cpu/kernels.h"

namespace moeflux::ops::cpu {

ScratchPlan plan_scratch(const Workload& work) {
  const uint32_t d = work.d_model;
  uint32_t max_in = d, row_floats = 2 * d;
  ScratchPlan plan;
  for (const Attention* w : work.attentions) {
    const uint32_t heads = w->n_heads * w->head_dim, kv = w->n_kv_heads * w->head_dim;
    row_floats = std::max(row_floats, 2 * d + 2 * heads + 2 * kv + w->gate.weight.out);
    max_in = std::max(max_in, heads);
  }
  for (const DeltaNet* w : work.delta_nets) {
    const uint32_t values = w->n_value_heads * w->value_dim;
    row_floats =
        std::max(row_floats, 2 * d + 2 * w->channels() + 2 * values + 2 * w->n_value_heads);
    max_in = std::max(max_in, values);
  }
  for (const Workload::Ffn& ffn : work.ffns) {
    plan.hidden_floats = std::max(plan.hidden_floats, 2 * ffn.width * ffn.rows);
    max_in = std::max(max_in, ffn.width);
  }
  plan.row_floats = uint64_t(work.rows) * row_floats;
  const uint64_t floats = std::max<uint64_t>(uint64_t(max_in) * kRowsPerBlock, work.context);
  plan.worker_floats = base::round_up(floats + 16, 1024);
  return plan;
}

}  // namespace moeflux::ops::cpu
