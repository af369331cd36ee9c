// Layers whose experts are in memory, without the CPU: the experts that a router chooses are looked
// up in the table of those that are there. What is computed behind a layer that has stopped means
// nothing, and is done again once the CPU has read what was missing.
#include "arguments.h"
#include "router.h"
#include "slabs.h"

constant constexpr uint kNoPlace = 0xffffffffu;  // SlabEntry::kAbsent: the number of no slab

// Chooses top_k of n_experts as router_top_k_f32 does, with the same arguments, and looks them up in
// `table` (n_experts). All there, `words` words each in one of the slabs: their entries become
// `places`, `note` (top_k + 1) is what was chosen and 1, and x (dim) is kept in `saved`. One of them
// not there: the same, but no places, note ends with 0, and stopped[0] becomes 1. If that is so
// already, there are no places, note and saved stay, and table, which may change, is not read. One threadgroup, whose first SIMD group
// chooses.
/// @elements slabs 2 * n_slabs
/// @elements logits n_experts
/// @elements bias has_bias * n_experts
/// @elements factors has_factors * n_experts
/// @elements table n_experts
/// @elements x dim
/// @elements experts top_k
/// @elements weights top_k
/// @elements stopped 1
/// @elements places top_k
/// @elements note top_k + 1
/// @elements saved dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid threads
/// @require groups == 1
/// @require AllSteps <= 1 && score <= 1 && has_bias <= 1 && has_factors <= 1
/// @require n_experts > 0 && top_k > 0
/// @require n_groups > 0 && n_groups <= 32 && n_experts % n_groups == 0
/// @require n_groups == 1 || n_experts / n_groups >= 2
/// @require top_groups > 0 && top_groups <= n_groups
/// @require top_k <= n_experts / n_groups * top_groups
kernel void find_experts(device const ulong2* slabs [[buffer(0)]],
                         device const float* logits [[buffer(1)]],
                         device const float* bias [[buffer(2)]],
                         device const float* factors [[buffer(3)]],
                         device const uint* table [[buffer(4)]],
                         device const float* x [[buffer(5)]],
                         device uint* experts [[buffer(6)]],
                         device float* weights [[buffer(7)]],
                         device uint* stopped [[buffer(8)]],
                         device uint* places [[buffer(9)]],
                         device uint* note [[buffer(10)]],
                         device float* saved [[buffer(11)]],
                         constant FindExpertsArgs& args [[buffer(12)]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint threads [[threads_per_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const bool is_stopped = stopped[0] != 0;
  if (!is_stopped)
    for (uint i = thread_index; i < args.dim; i += threads) saved[i] = x[i];
  threadgroup_barrier(mem_flags::mem_device);  // all have read stopped[0]
  if (simdgroup != 0) return;                  // the whole SIMD group
  const RouterSteps steps =
      router_steps(args.n_experts, args.top_k, args.normalise, args.score, args.n_groups,
                   args.top_groups, args.has_bias, args.has_factors, args.sum_eps, args.factor);
  choose_experts(logits, bias, factors, experts, weights, steps, lane);
  simdgroup_barrier(mem_flags::mem_device);  // experts have been written
  uint missing = is_stopped ? 1 : 0;
  for (uint k = lane; k < args.top_k; k += kSimdWidth) {
    const uint place = is_stopped ? kNoPlace : table[experts[k]];
    if (slot_at(slabs, args.n_slabs, place, args.words) == nullptr) missing = 1;
    places[k] = place;
  }
  missing = simd_max(missing);
  for (uint k = lane; k < args.top_k; k += kSimdWidth) {
    if (missing != 0) places[k] = kNoPlace;
    if (!is_stopped) note[k] = experts[k];
  }
  if (is_stopped || lane != 0) return;
  note[args.top_k] = missing != 0 ? 0 : 1;
  stopped[0] = missing;
}

// x = saved, both (dim), and stopped[0] = 0. A thread per element.
/// @elements saved dim
/// @elements x dim
/// @elements stopped 1
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
/// @require dim > 0
kernel void resume_layer(device const float* saved [[buffer(0)]],
                         device float* x [[buffer(1)]],
                         device uint* stopped [[buffer(2)]],
                         constant uint& dim [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i == 0) stopped[0] = 0;
  if (i < dim) x[i] = saved[i];
}
