// What this machine does in a few seconds: experts from disk, bytes from memory, weights through
// the kernels. Measured with the very code that a model uses, so that a plan built on it holds.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/format.h"
#include "io/file.h"
#include "model/model.h"
#include "ops/ops.h"
#include "store/expert_store.h"

namespace moeflux::engine {

struct Rate {
  uint64_t nbytes = 0;
  uint64_t rounds = 0;  // batches of reads, passes over memory, FFNs of a layer
  double seconds = 0;
};

// Random experts of `layers` through an ExpertStore, `batch` at a time, as a layer with so many
// misses asks for them. Bytes are those that were read.
Rate probe_reads(const std::vector<std::shared_ptr<io::File>>& files,
                 const std::vector<store::LayerExperts>& layers, uint32_t batch,
                 uint32_t read_threads, double seconds);

// `n_threads` threads read `nbytes` of memory over and over. The best part of the time counts.
Rate probe_memory(uint64_t nbytes, int n_threads, double seconds);

// The experts of a decoded layer as the engine runs them: `top_k` experts of `layers` from a store
// of `n_slots`, each computed as soon as it is there. For each of `misses`, experts that must be
// read: a Rate whose rounds are layers and whose bytes are those that were read, of `seconds`. All
// layers have the same shapes, and places in a slot of their own. REQUIRES: experts outside of the
// slots for all misses.
std::vector<Rate> probe_layer(const std::vector<std::shared_ptr<io::File>>& files,
                              const std::vector<store::LayerExperts>& layers,
                              std::span<const model::ExpertLayout> layouts, ops::Ops& ops,
                              base::Arena& arena, uint32_t top_k, std::span<const uint32_t> misses,
                              uint32_t n_slots, uint32_t read_threads, double seconds);

// FFNs of `top_k` experts of these shapes, one token, from `nbytes` of weights, each used once a
// pass. Bytes are those of all planes; the middle part of the time counts.
Rate probe_experts(ops::Ops& ops, base::Arena& arena, const ops::GatedFfn& shapes, uint32_t top_k,
                   uint64_t nbytes, double seconds);

}  // namespace moeflux::engine
