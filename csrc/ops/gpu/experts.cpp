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
  std::vector<uint32_t> entries, numbers, rows, places;
  for (const auto& [job, index, slot] : jobs) {
    entries.push_back(slot.entry);
    numbers.push_back(job->expert);
    rows.push_back(job->rows[index]);
    places.push_back(job->pairs[index]);
  }
  experts_in_slots(jobs[0].job->ffn, jobs[0].slot, which(jobs[0].slot, entries, numbers), rows,
                   places, normed, expert_out);
}

GpuOps::Which GpuOps::which(const Slots& slots, std::span<const uint32_t> entries,
                            std::span<const uint32_t> experts) {
  if (!slots.biases.back()) return {recorder_.list(entries), Place{}, 0};
  return {recorder_.list(entries), recorder_.list(experts),
          *std::max_element(experts.begin(), experts.end()) + 1};
}

void GpuOps::experts_at(const GatedFfn& expert, const Lookup& lookup, const float* normed,
                        float* expert_out) {
  const uint32_t n = lookup.top_k;
  std::vector<uint32_t> rows(n), places(n);
  std::iota(places.begin(), places.end(), 0);
  const Slots slots = Slots::anywhere(expert);
  const bool biased = slots.biases.back() != nullptr;
  experts_in_slots(
      expert, slots,
      {recorder_.in(lookup.places, n), biased ? recorder_.in(lookup.chosen, n) : Place{},
       biased ? lookup.n_experts : 0},
      rows, places, normed, expert_out);
}

uint32_t GpuOps::slot_words(const GatedFfn& expert) {
  if (!Slots::has_form(expert)) return 0;
  return word(Slots::anywhere(expert).nbytes / sizeof(uint32_t));
}

void GpuOps::experts_in_slots(const GatedFfn& ffn, const Slots& slots, const Which& which,
                              const std::vector<uint32_t>& rows,
                              const std::vector<uint32_t>& places, const float* normed,
                              float* expert_out) {
  const quant::Shape &up = up_of(ffn).weight.shape, &down = ffn.down.weight.shape;
  const auto biases = biases_of(slots, which, ffn);
  const auto n = static_cast<uint32_t>(rows.size());
  float* hidden = bump().take(uint64_t(n) * up.out);
  const DeviceArena::Slabs slabs = this->slabs();
  const auto last = [](const std::vector<uint32_t>& all) {
    return *std::max_element(all.begin(), all.end()) + uint64_t{1};
  };
  const uint32_t words = word(slots.nbytes / sizeof(uint32_t));
  recorder_.run(
      with_biases(with_activation({"experts_gate_up_bf16_f32", "Bits", up.bits()}, ffn), ffn),
      {slabs.list, which.entries, recorder_.in(normed, last(rows) * up.in), recorder_.list(rows),
       which.experts, biases[0], biases[1], recorder_.out(hidden, uint64_t(n) * up.out)},
      ExpertsGateUpArgs{up.out, up.in, up.group, n, slabs.count, words, slots.at(0), slots.at(1),
                        slots.at(2), slots.at(3), slots.at(4), slots.at(5), which.n_biased,
                        limit_of(ffn), ffn.alpha, ffn.up_add});
  recorder_.run(with_biases({"experts_down_bf16_f32", "Bits", down.bits()}, ffn),
                {slabs.list, which.entries, recorder_.in(hidden, uint64_t(n) * down.in),
                 recorder_.list(places), which.experts, biases[2],
                 recorder_.out(expert_out, last(places) * down.out)},
                ExpertsDownArgs{down.out, down.in, down.group, n, slabs.count, words, slots.at(6),
                                slots.at(7), slots.at(8), which.n_biased});
}

std::array<device::Argument, 3> GpuOps::biases_of(const Slots& slots, const Which& which,
                                                  const GatedFfn& ffn) const {
  std::array<device::Argument, 3> all;
  for (size_t i = 0; i < all.size(); ++i)
    all[i] =
        recorder_.in(slots.biases[i], uint64_t(which.n_biased) * Slots::matrices(ffn)[i]->out());
  return all;
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
    require_form(job.ffn);
    const bool is_few = job.rows.size() <= kSingly && Slots::has_form(job.ffn);
    const auto slot = is_few || has_grouped_form(job.ffn) ? Slots::of(job, arena_) : std::nullopt;
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
