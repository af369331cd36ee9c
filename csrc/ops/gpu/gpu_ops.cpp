#include "ops/gpu/gpu_ops.h"

#include <algorithm>

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {
// Lists that the device reads: a pass's tokens, rows of the head, and of each (row, rank) pair the
// row, the place of its output, its expert's entry, or a tile of three words that may be its own,
// and its expert's number, where that has biases. Once being recorded, once under way, once skipped
// at the end of the ring.
uint64_t list_words(const Workload& work) {
  uint64_t top_k = 0;
  for (const Workload::Moe& moe : work.moes)
    if (moe.router) top_k = std::max<uint64_t>(top_k, moe.router->top_k);
  return 3 * (uint64_t(work.rows) * (1 + 6 * top_k) + work.logit_rows);
}
}  // namespace

std::unique_ptr<Ops> make_gpu_ops(DeviceArena& arena, quant::DType cache, uint64_t attention_macs,
                                  uint64_t expert_macs) {
  return std::make_unique<GpuOps>(arena, cache, attention_macs, expert_macs);
}

uint64_t GpuOps::scratch_bytes(const Workload& work) const {
  return arena_.booked_bytes(rehearse(work).floats * sizeof(float)) +
         arena_.booked_bytes(list_words(work) * sizeof(uint32_t));
}

void GpuOps::reserve(const Workload& work) {
  const Rehearsal rehearsal = rehearse(work);
  scratch_ = base::Memory::written(arena_, rehearsal.floats * sizeof(float), "stage buffers");
  recorder_.reserve_lists(list_words(work));
  for (const Recorder::Kernel& kernel : rehearsal.kernels) {
    if (poll_) poll_();
    recorder_.pipeline(kernel);
  }
}

void GpuOps::head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) {
  const uint32_t d_model = w.linear.in(), n = static_cast<uint32_t>(rows.size());
  if (w.softcap != 0)
    throw NoKernelError(
        "[gpu::head] expected logits as they are, found a soft cap, which no kernel of a device "
        "does; the CPU's do");
  if (n == 0) return;
  Bump scratch = bump();
  float* gathered = scratch.take(uint64_t(n) * d_model);
  float* normed = scratch.take(uint64_t(n) * d_model);
  const float* from = x + uint64_t(rows[0]) * d_model;
  if (n > 1) {
    const uint64_t last = *std::max_element(rows.begin(), rows.end());
    recorder_.run({"gather_rows_f32"},
                  {recorder_.in(x, (last + 1) * d_model), recorder_.list(rows),
                   recorder_.out(gathered, uint64_t(n) * d_model), u32(d_model), u32(n)});
    from = gathered;
  }
  norm(w.norm, w.eps, from, n, d_model, normed);
  project(w.linear, normed, n, logits);
}

}  // namespace moeflux::ops::gpu
