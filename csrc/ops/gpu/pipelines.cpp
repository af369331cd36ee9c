// Which kernels a model's stages ask for. All of them are compiled when the model is loaded, so
// that one that a device refuses is an error of load, not of the first step. A stage that asked for
// a kernel that is not listed here would compile it then: tests count such pipelines.
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

void GpuOps::add_attention(const Attention& w, const Workload& work, Kernels& to) const {
  to.insert(to.end(), {{"norm_rope_f32"},
                       {"attn_scores_batched"},
                       {"attn_softmax_batched"},
                       {"attn_values_batched"}});
  if (work.context > kScoredPositions)
    to.insert(to.end(), {{"attention_decode_f32"}, {"attention_merge_f32"}});
  if (work.rows > 1) to.push_back({"attention_prefill_f32"});
  if (w.gate.weight.out) to.push_back({"sigmoid_gate"});
  for (const Linear* linear : {&w.q, &w.k, &w.v, &w.o, &w.gate})
    add_kernels(recorder_, *linear, work.rows, to);
}

void GpuOps::add_delta_net(const DeltaNet& w, uint32_t rows, Kernels& to) const {
  to.insert(to.end(), {{"conv1d_f32"},
                       {"l2_norm_f32"},
                       {"compute_decay_beta_f32"},
                       {"gated_delta_net_f32", "Dk", w.key_dim},
                       {"gated_rms_norm_f32"}});
  for (const Linear* linear : {&w.qkv, &w.z, &w.b, &w.a, &w.out})
    add_kernels(recorder_, *linear, rows, to);
}

// Of exactly one row, or of several.
void GpuOps::add_ffn_rows(const GatedFfn& w, bool several, Kernels& to) const {
  const uint32_t width = w.gate.weight.out, rows = several ? 2 : 1;
  if (!several && can_fuse_gate_up(recorder_, w.gate, w.up)) {
    to.push_back({"fused_gate_up_swiglu"});
  } else {
    add_kernels(recorder_, w.gate, rows, to);
    add_kernels(recorder_, w.up, rows, to);
    to.push_back({several          ? "swiglu_fused_batched"
                  : width % 4 == 0 ? "swiglu_fused_vec4"
                                   : "swiglu_fused"});
  }
  add_kernels(recorder_, w.down, rows, to);
}

void GpuOps::add_ffn(const GatedFfn& w, uint32_t rows, Kernels& to) const {
  add_ffn_rows(w, false, to);
  if (rows > 1) add_ffn_rows(w, true, to);
}

void GpuOps::add_moe(const Workload::Moe& w, uint32_t rows, Kernels& to) const {
  to.insert(to.end(), {{"router_top_k_f32"}, {"moe_combine_f32"}});
  if (w.router) add_kernels(recorder_, w.router->gate, rows, to);
  if (w.shared) add_ffn(*w.shared, rows, to);
  if (w.shared_gate) add_kernels(recorder_, *w.shared_gate, rows, to);
  GatedFfn expert;  // of a slot: no addresses yet
  static_cast<quant::Shape&>(expert.gate.weight) = w.gate;
  static_cast<quant::Shape&>(expert.up.weight) = w.up;
  static_cast<quant::Shape&>(expert.down.weight) = w.down;
  add_experts_of_one_row(expert, to);
  if (rows > 1) {
    to.insert(to.end(), {{"gather_rows_f32"}, {"scatter_rows_f32"}});
    add_ffn_rows(expert, true, to);
  }
}

void GpuOps::compile(const Workload& work) {
  Kernels all{{"rms_norm_f32"}, {"residual_add"}};  // norm(), add() and most stages
  if (work.embed) add_embed_kernels(*work.embed, all);
  for (const Attention* w : work.attentions) add_attention(*w, work, all);
  for (const DeltaNet* w : work.delta_nets) add_delta_net(*w, work.rows, all);
  for (const GatedFfn* w : work.dense) add_ffn(*w, work.rows, all);
  for (const Workload::Moe& w : work.moes) add_moe(w, work.rows, all);
  if (work.head) {
    if (work.logit_rows > 1) all.push_back({"gather_rows_f32"});
    add_kernels(recorder_, *work.head, work.logit_rows, all);
  }
  for (const Recorder::Kernel& kernel : all) {
    if (poll_) poll_();
    recorder_.pipeline(kernel);
  }
}

}  // namespace moeflux::ops::gpu
