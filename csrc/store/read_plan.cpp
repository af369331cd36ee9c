#include "store/read_plan.h"

#include <algorithm>

namespace moeflux::store {

namespace {

// Whether `next` follows `read` in every expert's file as it does in the slot.
bool follows(const Part& read, const Part& next, uint32_t n_experts) {
  const uint64_t distance = next.slot_offset - read.slot_offset;
  for (uint32_t expert = 0; expert < n_experts; ++expert)
    if (next.file[expert] != read.file[expert] || next.offset[expert] < read.offset[expert] ||
        next.offset[expert] - read.offset[expert] != distance)
      return false;
  return true;
}

bool fills_slot(const Part& read, const LayerExperts& layer,
                const std::vector<std::shared_ptr<io::File>>& files) {
  const uint64_t slot = layer.slot_bytes();
  if (read.slot_offset != 0) return false;
  for (uint32_t expert = 0; expert < layer.n_experts; ++expert)
    if (read.offset[expert] % kSlotAlignment != 0 ||
        files[read.file[expert]]->size() - read.offset[expert] < slot)
      return false;
  return true;
}

}  // namespace

std::vector<Part> plan_reads(const LayerExperts& layer,
                             const std::vector<std::shared_ptr<io::File>>& files) {
  std::vector<Part> parts = layer.parts, reads;
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return a.slot_offset < b.slot_offset; });
  for (Part& part : parts) {
    if (!reads.empty() && follows(reads.back(), part, layer.n_experts))
      reads.back().nbytes = part.slot_offset + part.nbytes - reads.back().slot_offset;
    else
      reads.push_back(std::move(part));
  }
  if (reads.size() == 1 && fills_slot(reads[0], layer, files)) reads[0].nbytes = layer.slot_bytes();
  return reads;
}

}  // namespace moeflux::store
