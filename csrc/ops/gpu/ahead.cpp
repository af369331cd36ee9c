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
    return !expert.interleaved && GpuOps::slot_words(expert) != 0;
  }

  void find(const Lookup& lookup, const GatedFfn& expert) override { ops_.find(lookup, expert); }

  void experts(const Lookup& lookup, const GatedFfn& expert, const Rows& normed,
               float* out) override {
    ops_.experts_at(expert, lookup, normed.data, out);
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
