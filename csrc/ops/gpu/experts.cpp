// Routed experts over the rows that chose them, read where they lie: in their slots. Those that few
// rows chose (all of a token's in decode) go together, two launches for all of them; so do those of
// many rows (grouped_experts.cpp); an expert of another format gathers, computes and scatters its
// rows. Which of the three depends on the number of its rows and its format alone, so that hits,
// late arrivals and neighbours change no bit.
#include <algorithm>
#include <numeric>

#include "ops/gpu/expert_slots.h"

namespace moeflux::ops::gpu {

struct GpuOps::ExpertRows {
  ExpertRows(Bump bump, const GatedFfn& expert, uint64_t n)
      : in(bump.take(n * expert.gate.in())),
        out(bump.take(n * expert.down.out())),
        ffn(bump, expert, n) {}
  float *in, *out;  // (n, d_model): of one expert
  FfnRows ffn;
};

void GpuOps::experts_of_one_row(std::span<const InSlot> jobs, const float* normed,
                                float* expert_out) {
  std::vector<uint32_t> entries, rows, places;
  for (const auto& [job, index, slot] : jobs) {
    entries.push_back(slot.entry);
    rows.push_back(job->rows[index]);
    places.push_back(job->pairs[index]);
  }
  experts_in_slots(jobs[0].job->ffn, jobs[0].slot, recorder_.list(entries), rows, places, normed,
                   expert_out);
}

void GpuOps::experts_at(const GatedFfn& expert, uint32_t n, const uint32_t* entries,
                        const float* normed, float* expert_out) {
  std::vector<uint32_t> rows(n), places(n);
  std::iota(places.begin(), places.end(), 0);
  experts_in_slots(expert, Slots::anywhere(expert), recorder_.in(entries, n), rows, places, normed,
                   expert_out);
}

uint32_t GpuOps::slot_words(const GatedFfn& expert) {
  if (!Slots::has_form(expert)) return 0;
  return word(Slots::anywhere(expert).nbytes / sizeof(uint32_t));
}

void GpuOps::experts_in_slots(const GatedFfn& ffn, const Slots& slots,
                              const device::Argument& where, const std::vector<uint32_t>& rows,
                              const std::vector<uint32_t>& places, const float* normed,
                              float* expert_out) {
  const quant::Shape &up = ffn.up.weight.shape, &down = ffn.down.weight.shape;
  const auto n = static_cast<uint32_t>(rows.size());
  float* hidden = bump().take(uint64_t(n) * up.out);
  const DeviceArena::Slabs slabs = this->slabs();
  const auto last = [](const std::vector<uint32_t>& all) {
    return *std::max_element(all.begin(), all.end()) + uint64_t{1};
  };
  const uint32_t words = word(slots.nbytes / sizeof(uint32_t));
  recorder_.run({"experts_gate_up_bf16_f32", "Bits", up.bits()},
                {slabs.list, where, recorder_.in(normed, last(rows) * up.in), recorder_.list(rows),
                 recorder_.out(hidden, uint64_t(n) * up.out)},
                ExpertsGateUpArgs{up.out, up.in, up.group, n, slabs.count, words, slots.at(0),
                                  slots.at(1), slots.at(2), slots.at(3), slots.at(4), slots.at(5)});
  recorder_.run({"experts_down_bf16_f32", "Bits", down.bits()},
                {slabs.list, where, recorder_.in(hidden, uint64_t(n) * down.in),
                 recorder_.list(places), recorder_.out(expert_out, last(places) * down.out)},
                ExpertsDownArgs{down.out, down.in, down.group, n, slabs.count, words, slots.at(6),
                                slots.at(7), slots.at(8)});
}

void GpuOps::expert(const ExpertJob& job, const float* normed, float* expert_out) {
  const uint32_t d_in = job.ffn.gate.in(), d_out = job.ffn.down.out();
  const uint32_t n = static_cast<uint32_t>(job.rows.size());
  const ExpertRows rows(bump(), job.ffn, n);
  if (n == 1) {  // in place
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

void GpuOps::experts(std::span<const ExpertJob> jobs, const Rows& normed, float* expert_out) {
  std::vector<InSlot> of_few, of_rows;
  const auto flush = [&](std::vector<InSlot>& together) {
    if (together.empty()) return;
    if (&together == &of_rows)
      grouped_experts(together, normed.data, expert_out);
    else
      experts_of_one_row(together, normed.data, expert_out);
    together.clear();
  };
  for (const ExpertJob& job : jobs) {
    if (job.rows.empty()) continue;
    require_swiglu(job.ffn);
    const bool is_few = job.rows.size() <= kSingly && Slots::has_form(job.ffn);
    const auto slot =
        is_few || has_grouped_form(job.ffn) ? Slots::of(job.ffn, arena_) : std::nullopt;
    if (!slot) {
      expert(job, normed.data, expert_out);
      continue;
    }
    std::vector<InSlot>& together = is_few ? of_few : of_rows;
    if (!together.empty() && !together[0].slot.has_layout(*slot)) flush(together);
    for (size_t i = 0; i < (is_few ? job.rows.size() : 1); ++i)
      together.push_back({&job, i, *slot});
  }
  flush(of_few);
  flush(of_rows);
}

}  // namespace moeflux::ops::gpu
