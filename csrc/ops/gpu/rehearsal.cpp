// What a model's stages take of the scratch and which kernels they ask for, found by the stages
// themselves: each runs with one row, with few and with as many as there may be, over notes in place of a
// device. So all kernels are compiled when the model is loaded, and one that a device refuses is an
// error of load, not of the first step.
#include <algorithm>

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

GpuOps::Rehearsal GpuOps::rehearse(const Workload& work) const {
  Rehearsal rehearsal;
  GpuOps(arena_, cache_dtype_, attention_macs_, expert_macs_, &rehearsal).run_through(work);
  return rehearsal;
}

void GpuOps::run_through(const Workload& work) {
  for (const uint32_t n : {1u, std::min(work.rows, kFewRows), work.rows}) run_through(work, n);
  for (const uint32_t n : {1u, std::min(work.logit_rows, kFewRows), work.logit_rows})
    if (work.head) head(*work.head, nowhere(), std::vector<uint32_t>(n), nowhere());
}

void GpuOps::run_through(const Workload& work, uint32_t n) {
  float* const x = nowhere();
  const std::vector<uint32_t> rows(n);
  norm(x, 0, x, n, 1, x);
  add(x, n, x);
  norm(x, 0, x, n, 1, x);  // of the sum
  add(x, n, x);            // alone
  if (work.embed) embed(*work.embed, rows, x);
  if (work.embed_scale) scale(work.embed_scale, n, x);

  std::byte* const place = reinterpret_cast<std::byte*>(x);
  const std::vector<CacheExtent> cache(work.context / kCacheExtent + 1, {place, place});
  Segment segment;
  segment.cache = cache.data();
  segment.state_in = segment.state_out = x;
  segment.n = std::min(n, work.context);
  for (const uint32_t position : {0u, work.context - segment.n})
    for (const Mixer* w : work.mixers) {
      segment.position = position;
      mix(*w, {&segment, 1}, {x, n}, x);
    }

  for (const GatedFfn* w : work.dense) ffn(*w, {x, n}, x);
  for (const Workload::Moe& w : work.moes) {
    const Routing routing{reinterpret_cast<uint32_t*>(x), x, x};
    const uint32_t top_k = w.router ? w.router->top_k : 1;
    if (w.router) route(*w.router, {x, n}, routing);
    if (w.latent_in) to_latent(*w.latent_in, {x, n}, x);
    recorder_.flush();
    experts(std::vector<ExpertJob>(top_k, {w.expert, rows, rows}), {x, n}, x);
    const uint64_t most =
        w.router ? std::min<uint64_t>(w.router->n_experts * kSingly, n * top_k) : 1;
    experts(std::vector<ExpertJob>(most, {w.expert, {0}, {0}}), {x, n}, x);
    if (n == 1 && w.router && ahead_->fits(*w.router, w.expert)) {
      uint32_t* const words = routing.experts;
      route(*w.router, {x, n}, routing);
      const Lookup lookup{words, words, x,    w.router->n_experts, top_k, w.expert.gate.in(), words,
                          x,     words, words};
      ahead_->find(lookup, w.expert);
      ahead_->experts(lookup, w.expert, {x, n}, x);
      ahead_->resume(x, w.expert.gate.in(), words, x);
    }
    if (w.shared) ffn(*w.shared, {x, n}, x);
    const uint32_t dim = w.latent_out ? w.latent_out->out() : w.expert.down.out();
    const auto combined = [&] {
      if (w.norms) return combine_normed(routing, top_k, x, *w.norms, x, n, dim, x);
      if (w.latent_out) return combine_latent(routing, top_k, x, *w.latent_out, x, n, x);
      combine(routing, top_k, x, w.shared_gate, {x, n}, x, dim, x);
    };
    combined();
    norm(x, 0, x, n, dim, x);
    combined();
    recorder_.flush();
  }
}

}  // namespace moeflux::ops::gpu
