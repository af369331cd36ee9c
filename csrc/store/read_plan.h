// Which reads bring an expert: ranges that lie in the file as they lie in the slot are one read.
#pragma once
#include <memory>
#include <vector>

#include "io/file.h"
#include "store/expert_store.h"

namespace moeflux::store {

// The reads of a layer's experts, in slot order. Neighbouring parts are merged when every expert
// has them in one file at the same distance as in the slot (what lies between them is read too); a
// single read of a whole slot at slot-aligned offsets, which is what `moeflux pack` writes, is
// widened to the whole slot, so that a direct read needs no staging.
std::vector<Part> plan_reads(const LayerExperts& layer,
                             const std::vector<std::shared_ptr<io::File>>& files);

}  // namespace moeflux::store
