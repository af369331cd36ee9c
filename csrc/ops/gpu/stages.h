// GpuOps, for the files that implement its stages. Others include gpu_ops.h.
//
// Stages share one scratch: dispatches of a device run in their order, so a stage's buffers are
// free when the next one's first dispatch runs, also across command buffers.
#pragma once
#include <algorithm>
#include <string>
#include <variant>

#include "base/memory.h"
#include "ops/gpu/bump.h"
#include "ops/gpu/gpu_ops.h"
#include "ops/gpu/linear.h"

namespace moeflux::ops::gpu {

// An expert of so many rows takes them one by one, beside those of other experts: one dispatch for
// all, and weights that are read again come from a cache.
inline constexpr size_t kSingly = 4;

void require_form(const GatedFfn& w);  // throws NoKernelError for what no kernel computes

class GpuOps;
std::unique_ptr<Ahead> make_ahead(GpuOps& ops);  // which outlive it

class GpuOps final : public Ops {
 public:
  struct Rehearsal {  // what a workload's stages take and ask for
    uint64_t floats = 0;
    Recorder::Kernels kernels;
  };

  GpuOps(DeviceArena& arena, quant::DType cache_dtype, uint64_t attention_macs,
         uint64_t expert_macs, Rehearsal* rehearsal = nullptr)
      : cache_dtype_(cache_dtype),
        attention_macs_(attention_macs),
        expert_macs_(expert_macs),
        arena_(arena),
        rehearsal_(rehearsal),
        recorder_(arena, rehearsal ? &rehearsal->kernels : nullptr),
        name_(arena.device().kind()) {}

  const char* name() const override { return name_.c_str(); }
  Counts counts() const override { return recorder_.counts(); }
  uint64_t scratch_bytes(const Workload& workload) const override;
  void reserve(const Workload& workload) override;
  CacheForm cache_form(const CacheShape& cache) const override;
  void set_poll(std::function<void()> poll) override { poll_ = std::move(poll); }
  std::unique_ptr<Ticket> submit(std::function<void()> on_done) override {
    return recorder_.submit(std::move(on_done));
  }
  void abandon() override {
    recorder_.abandon();
    late_ = {};
  }
  Ahead* ahead() const override { return ahead_.get(); }

  void embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) override {
    gpu::embed(recorder_, table, tokens, x);
  }
  void mix(const Mixer& w, Segments segments, const Rows& normed, float* x) override {
    std::visit([&](const auto& mixer) { ops::mix(*this, mixer, segments, normed, x); }, w);
  }
  void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
            float* out) override;
  void route(const Router& w, const Rows& normed, const Routing& out) override;
  void ffn(const GatedFfn& w, const Rows& normed, float* out) override;
  void experts(std::span<const ExpertJob> jobs, const Rows& normed, float* expert_out) override;
  void combine(const Routing& routing, uint32_t top_k, const float* expert_out,
               const Linear* shared_gate, const Rows& normed, const float* shared, uint32_t dim,
               float* x) override;
  void to_latent(const Linear& w, const Rows& normed, float* out) override {
    project(w, normed.data, normed.n, out);
  }
  void combine_latent(const Routing& routing, uint32_t top_k, const float* expert_out,
                      const Linear& w, const float* shared, uint32_t n, float* x) override;
  void add(const float* y, uint64_t n, float* x) override;
  void head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) override;

  // For Ahead: route() of one row and the lookup of what it chose, in one dispatch.
  void find(const Lookup& lookup, const GatedFfn& expert);

  // For mixers.
  Recorder& recorder() { return recorder_; }
  quant::DType cache_dtype() const { return cache_dtype_; }
  uint64_t attention_macs(const Recorder::Kernel& kernel) const {  // of one dispatch, at most
    return std::min(attention_macs_, recorder_.most_macs(kernel));
  }
  Bump bump() const {
    if (rehearsal_) return Bump(rehearsal_->floats);
    return {scratch_.as<float>(), scratch_.nbytes() / sizeof(float)};
  }
  // For Ahead. The planes of `expert` are offsets in a slot. Words of a slot; 0: no kernel reads it.
  static uint32_t slot_words(const GatedFfn& expert);
  // The first row through the experts that were chosen, wherever the device's lists say that they are.
  void experts_at(const GatedFfn& expert, const Lookup& lookup, const float* normed,
                  float* expert_out);
  DeviceArena::Slabs slabs() const { return rehearsal_ ? DeviceArena::Slabs{} : arena_.slabs(); }
  void project(const Linear& w, const float* x, uint32_t n, float* y) {
    gpu::project(recorder_, w, x, n, y);
  }

 private:
  // Of a workload, without a dispatch: its stages over a recorder and a bump that only take notes.
  Rehearsal rehearse(const Workload& workload) const;
  void run_through(const Workload& workload);
  void run_through(const Workload& workload, uint32_t n);  // of n rows

  struct FfnRows {
    FfnRows(Bump& bump, const GatedFfn& w, uint64_t n)
        : gate(bump.take(n * w.gate.out())), up(bump.take(n * w.gate.out())) {}
    float *gate, *up;  // (n, width); the hidden rows end in `gate`
  };
  void ffn_rows(const GatedFfn& w, const FfnRows& rows, const float* x, uint32_t n, float* out);
  // gate = what the network makes of gate and up, (n, width) all.
  void activate(const GatedFfn& w, const float* up, uint32_t n, float* gate);
  struct ExpertRows;
  void expert(const ExpertJob& job, const float* normed, float* expert_out);
  struct Slots;
  struct InSlot;
  void experts_of_one_row(std::span<const InSlot> jobs, const float* normed, float* expert_out);
  struct Which;
  Which which(const Slots& slots, std::span<const uint32_t> entries,
              std::span<const uint32_t> experts);
  std::array<device::Argument, 3> biases_of(const Slots& slots, const Which& which,
                                            const GatedFfn& ffn) const;
  void experts_in_slots(const GatedFfn& ffn, const Slots& slots, const Which& which,
                        const std::vector<uint32_t>& rows, const std::vector<uint32_t>& places,
                        const float* normed, float* expert_out);
  // grouped_experts.cpp. All of one layout.
  struct Group;
  static bool has_grouped_form(const GatedFfn& ffn);
  void grouped_experts(std::span<const InSlot> jobs, const float* normed, float* expert_out);
  void run_group(const Group& group, const float* normed, float* expert_out);

  // Stages that wait for the one behind them: a sum into the residual stream for the norm of it, a
  // choice of experts for their lookup (late.cpp).
  struct Late {
    struct Sum {  // x += y, (n) all
      const float* y;
      uint64_t n;
      float* x;
    };
    struct Combine {
      Routing routing;
      uint32_t top_k;
      const float *expert_out, *shared, *gates;
      uint32_t n, dim;
      float* x;
      bool adds = true;  // to x; else it becomes x
    };
    struct Choice {
      Router router;
      uint32_t n;
      Routing out;
    };
  };
  template <class Stage>
  void defer(const Stage& stage);
  void run(const Late::Sum& sum);
  void run(const Late::Combine& combine);
  void run(const Late::Choice& choice);
  bool norm_with(const Late::Sum& sum, const float* weight, float eps, const float* x, uint32_t n,
                 uint32_t dim, float* out);
  bool norm_with(const Late::Combine& combine, const float* weight, float eps, const float* x,
                 uint32_t n, uint32_t dim, float* out);

  const quant::DType cache_dtype_;
  const uint64_t attention_macs_, expert_macs_;  // the most of one dispatch
  DeviceArena& arena_;
  Rehearsal* const rehearsal_;  // null: for real
  Recorder recorder_;
  std::variant<std::monostate, Late::Sum, Late::Combine, Late::Choice> late_;  // deferred
  const std::string name_;
  const std::unique_ptr<Ahead> ahead_ = make_ahead(*this);
  base::Memory scratch_;        // from reserve() on
  std::function<void()> poll_;  // asked while kernels are compiled; stages are the caller's to wait
};

}  // namespace moeflux::ops::gpu
