// Layers whose experts are in memory, without the CPU (ops/ahead.h): what the router has chosen is
// looked up by a kernel, and computed by the kernels of experts() over the places that it found.
#include "ops/ahead.h"

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {

class GpuAhead final : public Ahead {
 public:
  explicit GpuAhead(GpuOps& ops) : ops_(ops) {}

  bool fits(const Router&, const GatedFfn& expert) const override {
    return expert.is_swiglu() && !expert.interleaved && GpuOps::slot_words(expert) != 0;
  }

  void find(const Lookup& l, const GatedFfn& expert) override {
    Recorder& recorder = ops_.recorder();
    const auto [slabs, n_slabs] = ops_.slabs();
    recorder.run(
        {"find_experts"},
        {slabs, recorder.in(l.chosen, l.top_k), recorder.in(l.table, l.n_experts),
         recorder.in(l.x, l.dim), recorder.out(l.stopped, 1), recorder.out(l.places, l.top_k),
         recorder.out(l.note, l.top_k + uint64_t{1}), recorder.out(l.saved, l.dim)},
        FindExpertsArgs{l.n_experts, l.top_k, l.dim, n_slabs, GpuOps::slot_words(expert)});
  }

  void experts(const GatedFfn& expert, uint32_t top_k, const uint32_t* places, const Rows& normed,
               float* out) override {
    ops_.experts_at(expert, top_k, places, normed.data, out);
  }

  void resume(const float* saved, uint32_t dim, uint32_t* stopped, float* x) override {
    Recorder& recorder = ops_.recorder();
    recorder.run({"resume_layer"}, {recorder.in(saved, dim), recorder.out(x, dim),
                                    recorder.out(stopped, 1), u32(dim)});
  }

 private:
  GpuOps& ops_;
};

}  // namespace

std::unique_ptr<Ahead> make_ahead(GpuOps& ops) {
  return std::make_unique<GpuAhead>(ops);
}

}  // namespace moeflux::ops::gpu
