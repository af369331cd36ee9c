// Experts of many rows, all that are ready in two dispatches: gate, up and their activation, and
// down. The CPU writes a list of tiles (shaders/grouped_experts.metal). A tile's sums depend on its
// own rows alone, and each of them on nothing but its columns: so neither what shares a dispatch nor
// how a list is cut changes a bit.
#include "ops/gpu/expert_slots.h"
#include "ops/gpu/tile_form.h"

namespace moeflux::ops::gpu {

namespace {
constexpr uint32_t kTileRows = 64;        // of a tile at most; kTileTokens of shaders/tile.h
constexpr uint64_t kCodesAlignment = 16;  // bytes that kernels load at once

std::string_view kernel_of(quant::DType dtype, std::string_view bf16, std::string_view f16,
                           std::string_view f32) {
  return dtype == quant::DType::bf16 ? bf16 : dtype == quant::DType::f16 ? f16 : f32;
}
uint64_t last(const std::vector<uint32_t>& all) {
  return *std::max_element(all.begin(), all.end()) + uint64_t{1};
}
// Rows that a tile of so many multiplies (run_tile of shaders/tile.h).
uint64_t computed_rows(uint64_t rows) {
  const uint64_t whole = rows / kTileRows * kTileRows, rest = rows % kTileRows;
  return whole + (rest > 8 ? base::round_up(rest, 16) : rest ? 8 : 0);
}
}  // namespace

struct GpuOps::Group {
  const InSlot* first;  // format and layout of all
  float* hidden;        // (rows, width)
  uint64_t computed;    // rows that its tiles multiply
  std::vector<uint32_t> tiles, experts, rows, places;
};

// Of gate and up one form, which is one pipeline and one walk.
bool GpuOps::has_grouped_form(const GatedFfn& ffn) {
  const auto fits = [](const Linear& w) {
    return w.weight.shape.bits() != 0 && is_supported(w.weight.shape) &&
           reinterpret_cast<uintptr_t>(w.weight.planes[quant::kCodes]) % kCodesAlignment == 0;
  };
  const quant::Shape &gate = ffn.gate.weight.shape, &up = up_of(ffn).weight.shape;
  return fits(ffn.gate) && fits(up_of(ffn)) && fits(ffn.down) && gate.bits() == up.bits() &&
         gate.group == up.group && gate.dtype == up.dtype && Slots::has_even_biases(ffn);
}

namespace {
Recorder::Kernel gate_up_kernel(const Recorder& recorder, const GatedFfn& ffn) {
  const quant::Shape& up = up_of(ffn).weight.shape;
  const std::string_view name = kernel_of(up.dtype, "grouped_gate_up_bf16_f32",
                                          "grouped_gate_up_f16_f32", "grouped_gate_up_f32_f32");
  return with_biases(with_activation(tile_kernel(recorder, name, up.bits()), ffn), ffn);
}
Recorder::Kernel down_kernel(const Recorder& recorder, const GatedFfn& ffn) {
  const quant::Shape& down = ffn.down.weight.shape;
  const std::string_view name = kernel_of(down.dtype, "grouped_down_bf16_f32",
                                          "grouped_down_f16_f32", "grouped_down_f32_f32");
  return with_biases(tile_kernel(recorder, name, down.bits()), ffn);
}
// Multiply-adds of a row, one at least.
uint64_t gate_up_macs(const GatedFfn& ffn) {
  return std::max<uint64_t>((ffn.has_up() ? uint64_t{2} : 1) * ffn.gate.in() * ffn.width(), 1);
}
uint64_t down_macs(const GatedFfn& ffn) {
  return std::max<uint64_t>(uint64_t{1} * ffn.down.out() * ffn.width(), 1);
}
}  // namespace

void GpuOps::grouped_experts(std::span<const InSlot> jobs, const float* normed, float* expert_out) {
  const GatedFfn& ffn = jobs[0].job->ffn;
  uint64_t rows = 0, computed = 0;
  for (const auto& [job, index, slot] : jobs) {
    rows += job->rows.size();
    computed += computed_rows(job->rows.size());
  }
  const auto most_rows = [&](const Recorder::Kernel& kernel, uint64_t row_macs) {
    return std::min(expert_macs_, recorder_.most_macs(kernel)) / row_macs;
  };
  // What a dispatch computes, a tile at least.
  const uint64_t most = std::max<uint64_t>(
      kTileRows, std::min({computed, most_rows(gate_up_kernel(recorder_, ffn), gate_up_macs(ffn)),
                           most_rows(down_kernel(recorder_, ffn), down_macs(ffn))}));
  Group group{&jobs[0], bump().take(std::min(rows, most) * ffn.width()), 0, {}, {}, {}, {}};
  for (const auto& [job, index, slot] : jobs)
    for (size_t first = 0; first < job->rows.size(); first += kTileRows) {
      const size_t end = std::min<size_t>(first + kTileRows, job->rows.size());
      const uint64_t of_tile = computed_rows(end - first);
      if (group.computed + of_tile > most) {
        run_group(group, normed, expert_out);
        group = {group.first, group.hidden, 0, {}, {}, {}, {}};
      }
      group.computed += of_tile;
      group.tiles.insert(group.tiles.end(),
                         {slot.entry, word(group.rows.size()), static_cast<uint32_t>(end - first)});
      group.experts.push_back(job->expert);
      group.rows.insert(group.rows.end(), job->rows.data() + first, job->rows.data() + end);
      group.places.insert(group.places.end(), job->pairs.data() + first, job->pairs.data() + end);
    }
  run_group(group, normed, expert_out);
}

void GpuOps::run_group(const Group& group, const float* normed, float* expert_out) {
  const GatedFfn& ffn = group.first->job->ffn;
  const Slots& slot = group.first->slot;
  const quant::Shape &up = up_of(ffn).weight.shape, &down = ffn.down.weight.shape;
  const auto n = word(group.rows.size()), n_tiles = word(group.tiles.size() / 3);
  const uint64_t scale = quant::dtype_bytes(up.dtype), down_scale = quant::dtype_bytes(down.dtype);
  const DeviceArena::Slabs slabs = rehearsal_ ? DeviceArena::Slabs{} : arena_.slabs();
  const Which which = this->which(slot, group.tiles, group.experts);
  const auto biases = biases_of(slot, which, ffn);
  const uint32_t words = word(slot.nbytes / sizeof(uint32_t));
  recorder_.weigh(group.computed * gate_up_macs(ffn));
  recorder_.run(
      gate_up_kernel(recorder_, ffn),
      {slabs.list, which.entries, recorder_.in(normed, last(group.rows) * up.in),
       recorder_.list(group.rows), which.experts, biases[0], biases[1],
       recorder_.out(group.hidden, uint64_t(n) * up.out)},
      GroupedGateUpArgs{up.out, up.in, up.group, n, n_tiles, slabs.count, words, slot.at(0, scale),
                        slot.at(1, scale), slot.at(2, scale), slot.at(3, scale), slot.at(4, scale),
                        slot.at(5, scale), which.n_biased, limit_of(ffn), ffn.alpha, ffn.up_add});
  recorder_.weigh(group.computed * down_macs(ffn));
  recorder_.run(down_kernel(recorder_, ffn),
                {slabs.list, which.entries, recorder_.in(group.hidden, uint64_t(n) * down.in),
                 recorder_.list(group.places), which.experts, biases[2],
                 recorder_.out(expert_out, last(group.places) * down.out)},
                GroupedDownArgs{down.out, down.in, down.group, n, n_tiles, slabs.count, words,
                                slot.at(6, down_scale), slot.at(7, down_scale),
                                slot.at(8, down_scale), which.n_biased});
}

}  // namespace moeflux::ops::gpu
