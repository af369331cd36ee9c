#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>

namespace moeflux::ops::cpu {

namespace {
class Finished final : public Ticket {
 public:
  bool done() const override { return true; }
  void wait() override {}
};

// Experts are taken in batches of about a chunk's rows, some of them with padding. One number for
// all layers, known before the first.
uint32_t batch_rows(const Workload& work) {
  uint32_t rows = work.rows;
  for (const Workload::Moe& w : work.moes)
    rows = std::max(rows, std::max(work.rows, w.router ? w.router->top_k : 0) + 4 * kBlockTokens);
  return static_cast<uint32_t>(base::round_up(rows, kBlockTokens));
}
}  // namespace

// Every stage at its widest. Nothing is computed: `x` stands for all that a stage reads or writes.
void CpuOps::rehearse(const Workload& work) {
  float nowhere = 0, *x = &nowhere;
  const uint32_t n = work.rows;
  for (const Mixer* w : work.mixers) {
    Segment segment;
    segment.n = n;
    mix(*w, {&segment, 1}, {x, n}, x);
    segment.n = 1;
    segment.position = std::max(work.context, 1u) - 1;
    mix(*w, {&segment, 1}, {x, 1}, x);
  }
  for (const GatedFfn* w : work.dense) ffn(*w, {x, n}, x);
  Rows normed{x, n};
  for (const Workload::Moe& w : work.moes) {
    ++normed.id;
    if (w.router) route(*w.router, normed, {nullptr, x, x});
    if (w.latent_in) to_latent(*w.latent_in, normed, x);
    if (w.shared) ffn(*w.shared, normed, x);  // before the experts or after: the same rows
    ExpertJob job;                            // as many rows as a batch has of all its experts
    job.ffn = w.expert;
    job.rows.resize(batch_rows(work));
    job.pairs = job.rows;
    experts({&job, 1}, w.latent_in ? Rows{x, n} : normed, x);  // narrow ones read rows of their own
    combine({}, 0, x, w.shared_gate, normed, x, w.expert.down.out(), x);
    if (w.latent_out) combine_latent({}, 0, x, *w.latent_out, x, n, x);
    experts({&job, 1}, {x, batch_rows(work) + 1}, x);  // of a wide pass
  }
  if (work.head) {
    Head last;
    last.linear = work.head->linear;
    head(last, x, std::vector<uint32_t>(work.logit_rows), x);
  }
}

Buffers CpuOps::needs(const Workload& work) const {
  CpuOps dry(*this, base::ThreadPool::Idle{});
  dry.matmul_.set_batch_rows(batch_rows(work));
  dry.rehearse(work);
  return std::move(dry.buffers_);
}

uint64_t CpuOps::scratch_bytes(const Workload& work) const {
  uint64_t total = (pool_.size() - 1) * base::kStackBytes;
  Buffers buffers = needs(work);
  for (const Scratch* scratch : buffers.all()) total += arena_.booked_bytes(scratch->most());
  return total;
}

void CpuOps::reserve(const Workload& work) {
  buffers_ = needs(work);
  stacks_ =
      base::Booking(arena_.account(), (pool_.size() - 1) * base::kStackBytes, "thread stacks");
  for (Scratch* scratch : buffers_.all()) scratch->book(arena_);
  matmul_.set_batch_rows(batch_rows(work));
}

std::unique_ptr<Ticket> CpuOps::submit(std::function<void()>) {
  return std::make_unique<Finished>();
}

void CpuOps::embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) {
  pool_.parallel_for(static_cast<int>(tokens.size()), [&](int i, int) {
    kernels_.dequant_row(table, tokens[i], x + uint64_t(i) * table.shape.in);
  });
}

void CpuOps::norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                  float* out) {
  pool_.parallel_for(static_cast<int>(n), [&](int i, int) {
    kernels_.rms_norm(x + uint64_t(i) * dim, weight, dim, eps, out + uint64_t(i) * dim);
  });
}

void CpuOps::add(const float* y, uint64_t n, float* x) {
  if (pool_.idle()) return;
  for (uint64_t i = 0; i < n; ++i) x[i] += y[i];
}

// Logits are float32 whatever the precision of the layers.
void CpuOps::head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) {
  const uint32_t d_model = w.linear.in(), n = static_cast<uint32_t>(rows.size());
  buffers_.stage.start();
  float* normed = buffers_.stage.take(uint64_t(n) * d_model);
  for (uint64_t i = 0; i < n; ++i)
    norm(w.norm, w.eps, x + uint64_t(rows[i]) * d_model, 1, d_model, normed + i * d_model);
  project({{&w.linear, logits, Precision::float32}}, {normed, n});
  if (w.softcap == 0) return;
  constexpr uint32_t kPart = 4096;
  const uint32_t vocab = w.linear.out(), parts = (vocab + kPart - 1) / kPart;
  pool_.parallel_for(static_cast<int>(n * parts), [&](int task, int) {
    float* row = logits + uint64_t(task / parts) * vocab;
    const uint32_t begin = task % parts * kPart, end = std::min(begin + kPart, vocab);
    for (uint32_t i = begin; i < end; ++i) row[i] = w.softcap * std::tanh(row[i] / w.softcap);
  });
}

void CpuOps::scale(const float* by, uint64_t n, float* x) {
  if (pool_.idle()) return;
  for (uint64_t i = 0; i < n; ++i) x[i] *= *by;
}

namespace {
// What the experts of a row give, weighed, in the order of their ids; the row's first pair is `first`.
void sum_experts(const Kernels& kernels, const Routing& routing, uint64_t first, uint32_t top_k,
                 const float* expert_out, uint32_t width, float* total) {
  std::fill_n(total, width, 0.0f);
  for (uint64_t pair = first; pair < first + top_k; ++pair)
    kernels.axpy(routing.weights[pair], expert_out + pair * width, total, width);
}
}  // namespace

void CpuOps::combine_normed(const Routing& routing, uint32_t top_k, const float* expert_out,
                            const Sandwich& norms, const float* beside, uint32_t n, uint32_t dim,
                            float* x) {
  float* totals = worker_floats(dim);
  pool_.parallel_for(static_cast<int>(n), [&](int row, int worker) {
    float* total = totals + uint64_t(worker) * dim;
    sum_experts(kernels_, routing, uint64_t(row) * top_k, top_k, expert_out, dim, total);
    kernels_.rms_norm(total, norms.routed, dim, norms.eps, total);
    kernels_.axpy(1, beside + uint64_t(row) * dim, total, dim);
    kernels_.rms_norm(total, norms.combined, dim, norms.eps, total);
    float* out = x + uint64_t(row) * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] = (out[i] + total[i]) * *norms.scale;
  });
}

void CpuOps::to_latent(const Linear& w, const Rows& normed, float* out) {
  project({{&w, out, precision()}}, normed);
}

void CpuOps::combine_latent(const Routing& routing, uint32_t top_k, const float* expert_out,
                            const Linear& w, const float* shared, uint32_t n, float* x) {
  const uint32_t width = w.in(), dim = w.out();
  buffers_.stage.start();
  float* totals = buffers_.stage.take(uint64_t(n) * width);
  float* out = buffers_.stage.take(uint64_t(n) * dim);
  pool_.parallel_for(static_cast<int>(n), [&](int row, int) {
    float* total = totals + uint64_t(row) * width;
    sum_experts(kernels_, routing, uint64_t(row) * top_k, top_k, expert_out, width, total);
  });
  project({{&w, out, inner_precision(precision())}}, {totals, n});
  if (shared) add(shared, uint64_t(n) * dim, out);
  add(out, uint64_t(n) * dim, x);
}

void CpuOps::ffn(const GatedFfn& w, const Rows& normed, float* out) {
  matmul_.ffn(w, normed, out);
}

void CpuOps::experts(std::span<const ExpertJob> jobs, const Rows& normed, float* expert_out) {
  matmul_.experts(jobs, normed, expert_out);
}

void CpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const Rows& normed, const float* shared,
                     uint32_t dim, float* x) {
  buffers_.stage.start();
  float* gates = buffers_.stage.take(normed.n);
  if (shared_gate) project({{shared_gate, gates, Precision::float32}}, normed);
  float* totals = worker_floats(dim);
  pool_.parallel_for(static_cast<int>(normed.n), [&](int row, int worker) {
    float* total = totals + uint64_t(worker) * dim;
    sum_experts(kernels_, routing, uint64_t(row) * top_k, top_k, expert_out, dim, total);
    if (shared)
      kernels_.axpy(shared_gate ? 1.0f / (1.0f + std::exp(-gates[row])) : 1.0f,
                    shared + uint64_t(row) * dim, total, dim);
    float* out = x + uint64_t(row) * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] += total[i];
  });
}

}  // namespace moeflux::ops::cpu
