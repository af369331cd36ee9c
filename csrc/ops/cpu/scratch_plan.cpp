#include "ops/cpu/scratch_plan.h"

#include <algorithm>
#include <vector>

#include "base/memory.h"

namespace moeflux::ops::cpu {

InputFormat input_format(const quant::Shape& w, Precision precision, const Kernels& kernels) {
  InputFormat format;
  if (w.bits == 0) {
    format.round_bf16 = precision != Precision::float32;
    format.plain_bf16 = format.round_bf16 && kernels.bf16_products && w.dtype == quant::DType::bf16;
    return format;
  }
  format.planes = code_planes(w.bits);
  format.group = w.group;
  format.digits = precision == Precision::float32 ? 3 : precision == Precision::bfloat16 ? 2 : 1;
  return format;
}

ScratchPlan::ScratchPlan(const Workload& work, Precision precision, const Kernels& kernels)
    : rows_(work.rows), context_(work.context), precision_(precision), kernels_(kernels) {
  // Experts are taken in batches of about a chunk's rows, some of them with padding. One number for
  // all layers, known before the first: a batch of the widest layer may have the rows of the layer
  // with most of them.
  uint32_t rows = rows_;
  for (const Workload::Moe& w : work.moes)
    rows = std::max(rows, std::max(rows_, w.router ? w.router->top_k : 0) + 4 * kBlockTokens);
  hidden_rows_ = (rows + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  for (const Attention* w : work.attentions) add(*w);
  for (const DeltaNet* w : work.delta_nets) add(*w);
  for (const GatedFfn* w : work.dense) add(*w);
  for (const Workload::Moe& w : work.moes) add(w);
  if (work.head) add(*work.head, work.logit_rows);
}

void ScratchPlan::worker(const quant::Shape& w) {
  worker_bytes_ = std::max(worker_bytes_, kernels_.gemm_scratch(w.in));
}

void ScratchPlan::inputs(std::initializer_list<Use> uses) {
  std::vector<InputFormat> formats;
  uint64_t records = 0, packed = 0;
  for (const Use& use : uses) {
    if (use.shape->out == 0) continue;
    worker(*use.shape);
    const InputFormat format = input_format(*use.shape, use.precision, kernels_);
    if (std::find(formats.begin(), formats.end(), format) != formats.end()) continue;
    formats.push_back(format);
    const uint64_t blocks = (rows_ + kBlockTokens - 1) / kBlockTokens;
    records += rows_ * input_bytes(format, use.shape->in);
    if (format.planes) packed += blocks * cpu::packed_bytes(format, use.shape->in);
  }
  record_bytes_ = std::max(record_bytes_, records);
  packed_bytes_ = std::max(packed_bytes_, packed);
}

void ScratchPlan::hidden(const quant::Shape& gate, const quant::Shape& down) {
  const InputFormat format = input_format(down, inner_precision(precision_), kernels_);
  const uint64_t blocks = hidden_rows_ / kBlockTokens;
  hidden_floats_ = std::max(hidden_floats_, 2 * blocks * kBlockTokens * gate.out);
  hidden_record_bytes_ =
      std::max(hidden_record_bytes_, blocks * kBlockTokens * input_bytes(format, down.in));
  if (format.planes)
    hidden_packed_bytes_ =
        std::max(hidden_packed_bytes_, blocks * cpu::packed_bytes(format, down.in));
  worker(down);
}

void ScratchPlan::add(const Attention& w) {
  const uint64_t heads = uint64_t(w.n_heads) * w.head_dim, kv = uint64_t(w.n_kv_heads) * w.head_dim;
  inputs({{&w.q.weight, precision_},
          {&w.k.weight, precision_},
          {&w.v.weight, precision_},
          {&w.gate.weight, precision_}});
  inputs({{&w.o.weight, inner_precision(precision_)}});
  stage_floats_ = std::max(stage_floats_, rows_ * (2 * uint64_t(w.o.weight.out) + 2 * heads +
                                                   2 * kv + w.gate.weight.out));
  const uint32_t group = w.n_heads / w.n_kv_heads, queries = group * attend_tile_rows(group);
  worker_bytes_ =
      std::max<uint64_t>(worker_bytes_, (queries * uint64_t(attend_state_floats(w.head_dim)) +
                                         attend_scratch_floats(w.head_dim, queries)) *
                                            sizeof(float));
  span_state_floats_ = std::max(span_state_floats_, (context_ / uint64_t(kSpan) + 1) * w.n_heads *
                                                        attend_state_floats(w.head_dim));
  rope_floats_ = std::max<uint64_t>(rope_floats_, uint64_t(rows_) * w.rotary_dim);
}

void ScratchPlan::add(const DeltaNet& w) {
  inputs({{&w.qkv.weight, precision_},
          {&w.z.weight, precision_},
          {&w.b.weight, Precision::float32},
          {&w.a.weight, Precision::float32}});
  inputs({{&w.out.weight, inner_precision(precision_)}});
  const uint64_t values = uint64_t(w.n_value_heads) * w.value_dim;
  stage_floats_ =
      std::max(stage_floats_, rows_ * (2 * uint64_t(w.out.weight.out) + 2 * uint64_t(w.channels()) +
                                       2 * values + 2 * uint64_t(w.n_value_heads)) +
                                  uint64_t(w.conv_width - 1) * w.channels());
}

void ScratchPlan::add(const GatedFfn& w) {
  inputs({{&w.gate.weight, precision_}, {&w.up.weight, precision_}});
  hidden(w.gate.weight, w.down.weight);
}

void ScratchPlan::add(const Workload::Moe& w) {
  static constexpr quant::Shape none;
  inputs({{w.router ? &w.router->gate.weight : &none, Precision::float32},
          {&w.gate, precision_},
          {&w.up, precision_},
          {w.shared ? &w.shared->gate.weight : &none, precision_},
          {w.shared ? &w.shared->up.weight : &none, precision_},
          {w.shared_gate ? &w.shared_gate->weight : &none, Precision::float32}});
  hidden(w.gate, w.down);
  if (w.shared) hidden(w.shared->gate.weight, w.shared->down.weight);
  // route(): a row's probabilities and order. combine(): the rows' gates, a row's sum a thread.
  stage_floats_ =
      std::max<uint64_t>({stage_floats_, rows_, w.router ? 2 * w.router->n_experts : 0});
  worker_bytes_ = std::max<uint64_t>(worker_bytes_, w.down.out * sizeof(float));
  // A batch packs its experts' rows, with padding, of the formats of gate and up.
  const uint64_t blocks = hidden_rows_ / kBlockTokens;
  uint64_t packed = 0;
  for (const quant::Shape* shape : {&w.gate, &w.up}) {
    const InputFormat format = input_format(*shape, precision_, kernels_);
    if (format.planes) packed += blocks * cpu::packed_bytes(format, shape->in);
  }
  packed_bytes_ = std::max(packed_bytes_, packed);
}

void ScratchPlan::add(const Linear& head, uint32_t logit_rows) {
  inputs({{&head.weight, Precision::float32}});
  stage_floats_ = std::max<uint64_t>(stage_floats_, uint64_t(logit_rows) * head.weight.in);
}

uint64_t ScratchPlan::bytes(const base::Arena& arena, int n_threads) const {
  uint64_t total = 0;
  for (uint64_t part :
       {worker_bytes_ * n_threads, stage_floats_ * sizeof(float), record_bytes_, packed_bytes_,
        hidden_floats_ * sizeof(float), hidden_record_bytes_, hidden_packed_bytes_,
        span_state_floats_ * sizeof(float), rope_floats_ * sizeof(float)})
    total += arena.booked_bytes(part);
  return total;
}

}  // namespace moeflux::ops::cpu
