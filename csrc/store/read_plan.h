// Where the parts of an expert lie in a slot, and which reads bring them.
//
// Direct reads move whole blocks of the disk to whole blocks of memory. What begins elsewhere, as
// nearly everything in a checkpoint does, would be read into a buffer and copied: on two cores that
// costs a third of what computing does (benchmarks/notebook.md). So a long range keeps its place
// within a page: where an expert's weights begin at byte 14 of a block on disk, they begin at byte
// 14 of a page of the slot, and the blocks around them are read straight to the pages around them.
// What comes in blocks goes through a buffer anyway, and needs no such place.
#pragma once
#include <memory>
#include <vector>

#include "io/file.h"
#include "store/layer_experts.h"

namespace moeflux::store {

// Sets slot_offset of every part, one after the other. Parts that every expert has in one file at
// such distances as a slot has (what `moeflux pack` writes) stay together; such a stretch begins at
// a multiple of kPartAlignment or, if it is long and its place within a page is the same in every
// expert and a multiple of `alignment`, at that place of a page, with its first and last page for
// itself. Throws FormatError where a part has not a range for every expert.
void place_parts(LayerExperts& layer, uint64_t alignment);

// The reads of a layer's experts, in slot order. Neighbouring parts are merged when every expert
// has them in one file at the same distance as in the slot (what lies between them is read too). A
// read that lies within a page as it does in every file is widened to whole pages where nothing
// else is in them, so that a direct read needs no staging.
std::vector<Part> plan_reads(const LayerExperts& layer,
                             const std::vector<std::shared_ptr<io::File>>& files);

}  // namespace moeflux::store
