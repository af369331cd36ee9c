// Layers whose experts are in memory, without the CPU: the experts that a router has chosen are looked
// up in the table of those that are there. What is computed behind a layer that has stopped means
// nothing, and is done again once the CPU has read what was missing.
#include "arguments.h"
#include "slabs.h"

constant constexpr uint kNoPlace = 0xffffffffu;  // SlabEntry::kAbsent: the number of no slab

// Looks up the top_k experts of `chosen` in `table` (n_experts). All there, `words` words each in one
// of the slabs: their entries become `places`, `note` (top_k + 1) is what was chosen and 1, and x (dim)
// is kept in `saved`. One of them not there: the same, but no places, note ends with 0, and stopped[0]
// becomes 1. If that is so already, there are no places and nothing else is written. One threadgroup.
/// @elements slabs 2 * n_slabs
/// @elements chosen top_k
/// @elements table n_experts
/// @elements x dim
/// @elements stopped 1
/// @elements places top_k
/// @elements note top_k + 1
/// @elements saved dim
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid threads
/// @require groups == 1
/// @require top_k > 0
kernel void find_experts(device const ulong2* slabs [[buffer(0)]],
                         device const uint* chosen [[buffer(1)]],
                         device const uint* table [[buffer(2)]],
                         device const float* x [[buffer(3)]],
                         device uint* stopped [[buffer(4)]],
                         device uint* places [[buffer(5)]],
                         device uint* note [[buffer(6)]],
                         device float* saved [[buffer(7)]],
                         constant FindExpertsArgs& args [[buffer(8)]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint threads [[threads_per_threadgroup]]) {
  if (stopped[0] != 0) {  // the whole threadgroup
    for (uint k = thread_index; k < args.top_k; k += threads) places[k] = kNoPlace;
    return;
  }
  bool missing = false;  // every thread looks at all of them: they are few
  for (uint k = 0; k < args.top_k; ++k) {
    const uint place = chosen[k] < args.n_experts ? table[chosen[k]] : kNoPlace;
    missing = missing || slot_at(slabs, args.n_slabs, place, args.words) == nullptr;
  }
  for (uint k = thread_index; k < args.top_k; k += threads) {
    places[k] = missing ? kNoPlace : table[chosen[k]];
    note[k] = chosen[k];
  }
  for (uint i = thread_index; i < args.dim; i += threads) saved[i] = x[i];
  threadgroup_barrier(mem_flags::mem_device);  // all have read stopped[0]
  if (thread_index != 0) return;
  note[args.top_k] = missing ? 0 : 1;
  stopped[0] = missing ? 1 : 0;
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
