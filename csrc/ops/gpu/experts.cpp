// Routed experts over the rows that chose them, read where they lie: in their slots. Those that one
// row chose (all of a token's in decode) go together, two launches for up to 16 of them; an expert
// of many rows gathers, computes and scatters them. Which of the two depends on the number of its
// rows and its format alone, so that hits, late arrivals and neighbours change no bit.
#include <algorithm>
#include <array>

#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

namespace {
constexpr size_t kSlots = 16;                  // bindings of experts_gate_up_bf16_f32
constexpr size_t kParts = 3 * quant::kPlanes;  // of gate, of up, of down
}  // namespace

struct GpuOps::ExpertRows {
  ExpertRows(Bump bump, const GatedFfn& expert, uint64_t n)
      : in(bump.take(n * expert.gate.in())),
        out(bump.take(n * expert.down.out())),
        ffn(bump, expert, n) {}
  float *in, *out;  // (n, d_model): of one expert
  FfnRows ffn;
};

// Where the parts of an expert lie in its slot, for experts whose slots have one layout.
struct GpuOps::Slots {
  static const std::byte* base(const GatedFfn& ffn) {
    const auto all = parts(ffn);
    return *std::min_element(all.begin(), all.end());
  }
  static std::array<const std::byte*, kParts> parts(const GatedFfn& ffn) {
    std::array<const std::byte*, kParts> all;
    for (size_t i = 0; i < kParts; ++i)
      all[i] = (ffn.*GatedFfn::kMatrices[i / quant::kPlanes]).weight.planes[i % quant::kPlanes];
    return all;
  }
  // One width of codes, scales as the kernels have them, no biases of the outputs.
  static bool has_form(const GatedFfn& ffn) {
    const auto fits = [&](const Linear& w) {
      return w.bias == nullptr && w.weight.shape.bits() == ffn.gate.weight.shape.bits() &&
             w.weight.shape.dtype == quant::DType::bf16 && is_supported(w.weight.shape);
    };
    return ffn.gate.weight.shape.bits() != 0 && fits(ffn.gate) && fits(ffn.up) && fits(ffn.down) &&
           ffn.gate.weight.shape.group == ffn.up.weight.shape.group;
  }
  // And one buffer. Without an address: a slot in a rehearsal.
  static bool fit(const GatedFfn& ffn, const DeviceArena& arena) {
    const std::byte* slot = base(ffn);
    return has_form(ffn) && (!slot || arena.reach(slot) >= Slots(ffn).nbytes);
  }

  explicit Slots(const GatedFfn& ffn) {
    const std::byte* first = base(ffn);
    const auto all = parts(ffn);
    for (size_t i = 0; i < kParts; ++i) {
      const quant::Shape& shape = (ffn.*GatedFfn::kMatrices[i / quant::kPlanes]).weight.shape;
      offsets[i] = static_cast<uint64_t>(all[i] - first);
      nbytes = std::max(nbytes, offsets[i] + shape.plane_bytes(i % quant::kPlanes));
    }
    nbytes = base::round_up(nbytes, sizeof(uint32_t));
  }
  bool operator==(const Slots&) const = default;
  uint32_t at(size_t part) const {  // in words, or in 16-bit values
    return word(offsets[part] /
                (part % quant::kPlanes == quant::kCodes ? sizeof(uint32_t) : sizeof(uint16_t)));
  }

  std::array<uint64_t, kParts> offsets{};  // bytes
  uint64_t nbytes = 0;
};

void GpuOps::experts_of_one_row(std::span<const ExpertJob* const> jobs, const Slots& slots,
                                const float* normed, float* expert_out) {
  const GatedFfn& ffn = jobs[0]->ffn;
  const quant::Shape &up = ffn.up.weight.shape, &down = ffn.down.weight.shape;
  const auto n = static_cast<uint32_t>(jobs.size());
  const ExpertRows buffers(bump(), ffn, kSlots);
  float* hidden = buffers.ffn.gate;
  std::vector<uint32_t> rows, places;
  std::vector<device::Argument> args;
  for (const ExpertJob* job : jobs) {
    rows.push_back(job->rows[0]);
    places.push_back(job->pairs[0]);
    args.push_back(recorder_.in(Slots::base(job->ffn), slots.nbytes));
  }
  while (args.size() < kSlots) args.emplace_back(Place{});  // unused bindings
  const auto last = [](const std::vector<uint32_t>& all) {
    return *std::max_element(all.begin(), all.end()) + uint64_t{1};
  };
  const auto with_slots = [&](Recorder::Listed more) {
    std::vector<device::Argument> all = args;
    all.insert(all.end(), more);
    return all;
  };
  const uint32_t words = word(slots.nbytes / sizeof(uint32_t));
  recorder_.run({"experts_gate_up_bf16_f32", "Bits", up.bits()},
                with_slots({recorder_.in(normed, last(rows) * up.in), recorder_.list(rows),
                            recorder_.out(hidden, uint64_t(n) * up.out)}),
                ExpertsGateUpArgs{up.out, up.in, up.group, n, words, slots.at(0), slots.at(1),
                                  slots.at(2), slots.at(3), slots.at(4), slots.at(5)});
  recorder_.run({"experts_down_bf16_f32", "Bits", down.bits()},
                with_slots({recorder_.in(hidden, uint64_t(n) * down.in), recorder_.list(places),
                            recorder_.out(expert_out, last(places) * down.out)}),
                ExpertsDownArgs{down.out, down.in, down.group, n, words, slots.at(6), slots.at(7),
                                slots.at(8)});
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
  std::vector<const ExpertJob*> together;
  const auto flush = [&] {
    if (!together.empty())
      experts_of_one_row(together, Slots(together[0]->ffn), normed.data, expert_out);
    together.clear();
  };
  for (const ExpertJob& job : jobs) {
    if (job.rows.empty()) continue;
    require_swiglu(job.ffn);
    if (job.rows.size() > 1 || !Slots::fit(job.ffn, arena_)) {
      expert(job, normed.data, expert_out);
      continue;
    }
    if (together.size() == kSlots ||
        (!together.empty() && Slots(together[0]->ffn) != Slots(job.ffn)))
      flush();
    together.push_back(&job);
  }
  flush();
}

}  // namespace moeflux::ops::gpu
