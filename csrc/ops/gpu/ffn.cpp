// Feed-forward networks: dense ones and the shared expert over all rows, routed experts over the
// rows that chose them. An expert reads its slot where it lies.
#include <algorithm>

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

struct GpuOps::FfnRows {
  FfnRows(Bump& bump, const quant::Shape& w, uint32_t n)
      : gate(bump.take(uint64_t(n) * w.out)), up(bump.take(uint64_t(n) * w.out)) {}
  float *gate, *up;  // (n, width)
};

uint64_t GpuOps::ffn_floats(const quant::Shape& gate, uint32_t rows) {
  Bump bump;
  FfnRows(bump, gate, rows);
  return bump.used();
}

void GpuOps::ffn_rows(const GatedFfn& w, const FfnRows& rows, const float* x, uint32_t n,
                      float* out) {
  const uint64_t width = w.gate.weight.out, count = n * width;
  if (n > 1 || !fused_gate_up(recorder_, w.gate, w.up, x, rows.gate)) {
    project(w.gate, x, n, rows.gate);
    project(w.up, x, n, rows.up);
    const auto gate = recorder_.in(rows.gate, count), up = recorder_.in(rows.up, count),
               hidden = recorder_.out(rows.gate, count);
    if (n > 1)
      recorder_.run({"swiglu_fused_batched"}, {gate, up, hidden, u32(width), u32(n)});
    else
      recorder_.run({width % 4 == 0 ? "swiglu_fused_vec4" : "swiglu_fused"},
                    {gate, up, hidden, u32(width)});
  }
  project(w.down, rows.gate, n, out);
}

void GpuOps::ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) {
  Bump scratch = bump();
  ffn_rows(w, FfnRows(scratch, w.gate.weight, n), normed, n, out);
}

struct GpuOps::ExpertRows {
  ExpertRows(Bump bump, const quant::Shape& gate, const quant::Shape& down, uint32_t n)
      : in(bump.take(uint64_t(n) * gate.in)),
        out(bump.take(uint64_t(n) * down.out)),
        ffn(bump, gate, n),
        floats(bump.used()) {}
  float *in, *out;  // (n, d_model): of one expert
  FfnRows ffn;
  uint64_t floats;
};

uint64_t GpuOps::expert_floats(const quant::Shape& gate, const quant::Shape& down, uint32_t rows) {
  return ExpertRows({}, gate, down, rows).floats;
}

// Rows that an expert has alone are computed in place, others gathered, computed and scattered.
void GpuOps::expert(const ExpertJob& job, const ExpertRows& rows, const float* normed,
                    float* expert_out) {
  const uint32_t d_in = job.ffn.gate.weight.in, d_out = job.ffn.down.weight.out;
  const uint32_t n = static_cast<uint32_t>(job.rows.size());
  if (n == 1) {
    ffn_rows(job.ffn, rows.ffn, normed + uint64_t(job.rows[0]) * d_in, 1,
             expert_out + uint64_t(job.pairs[0]) * d_out);
    return;
  }
  const uint64_t last_row = *std::max_element(job.rows.begin(), job.rows.end());
  const uint64_t last_pair = *std::max_element(job.pairs.begin(), job.pairs.end());
  recorder_.run({"gather_rows_f32"},
                {recorder_.in(normed, (last_row + 1) * d_in), recorder_.list(job.rows),
                 recorder_.out(rows.in, uint64_t(n) * d_in), u32(d_in), u32(n)});
  ffn_rows(job.ffn, rows.ffn, rows.in, n, rows.out);
  recorder_.run({"scatter_rows_f32"},
                {recorder_.in(rows.out, uint64_t(n) * d_out), recorder_.list(job.pairs),
                 recorder_.out(expert_out, (last_pair + 1) * d_out), u32(d_out), u32(n)});
}

void GpuOps::experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) {
  for (const ExpertJob& job : jobs) {
    if (job.rows.empty()) continue;
    const ExpertRows rows(bump(), job.ffn.gate.weight, job.ffn.down.weight,
                          static_cast<uint32_t>(job.rows.size()));
    expert(job, rows, normed, expert_out);
  }
}

}  // namespace moeflux::ops::gpu
