#include "store/read_plan.h"

#include <algorithm>

#include "base/error.h"

namespace moeflux::store {

namespace {

using base::kPageBytes;

// A stretch that is worth pages of its own: they cost two pages of memory at most.
constexpr uint64_t kLongBytes = 128 << 10;

// Whether every expert has `next` in the file of `read`, `distance` bytes behind its begin, and both
// go to the slot as they are.
bool follows(const Part& read, const Part& next, uint64_t distance) {
  if (read.blocks || next.blocks) return false;
  for (size_t expert = 0; expert < read.file.size(); ++expert)
    if (next.file[expert] != read.file[expert] || next.offset[expert] < read.offset[expert] ||
        next.offset[expert] - read.offset[expert] != distance)
      return false;
  return true;
}

// Whether every expert's range begins at this place within a page of its file.
bool begins_at(const Part& part, uint64_t place) {
  return std::all_of(part.offset.begin(), part.offset.end(),
                     [&](uint64_t offset) { return offset % kPageBytes == place; });
}

// To whole pages: back to the one it begins in if that is free from `free_from` on, and forward as
// far as `free_to` and the files reach.
void widen(Part& read, uint64_t free_from, uint64_t free_to,
           const std::vector<std::shared_ptr<io::File>>& files) {
  const uint64_t place = read.slot_offset % kPageBytes;
  if (read.blocks || read.offset.empty() || read.slot_offset - place < free_from ||
      !begins_at(read, place))
    return;
  read.slot_offset -= place;
  read.nbytes += place;
  for (uint64_t& offset : read.offset) offset -= place;
  uint64_t whole = std::min(base::round_up(read.nbytes, kPageBytes), free_to - read.slot_offset);
  for (size_t expert = 0; expert < read.offset.size(); ++expert)
    whole = std::min(whole, files[read.file[expert]]->size() - read.offset[expert]);
  read.nbytes = std::max(read.nbytes, whole);
}

}  // namespace

void place_parts(LayerExperts& layer, uint64_t alignment) {
  for (const Part& part : layer.parts)
    if (part.file.size() != layer.n_experts || part.offset.size() != layer.n_experts)
      throw FormatError("[store::place_parts] expected a range for each of ", layer.n_experts,
                        " experts, found ", part.file.size(), " files and ", part.offset.size(),
                        " offsets");
  uint64_t end = 0;  // of what is placed
  for (size_t first = 0; first < layer.parts.size();) {
    Part& head = layer.parts[first];
    head.slot_offset = 0;
    uint64_t nbytes = head.slot_bytes();
    size_t last = first + 1;
    for (; last < layer.parts.size(); ++last) {
      Part& part = layer.parts[last];
      part.slot_offset = base::round_up(nbytes, kPartAlignment);
      if (!follows(head, part, part.slot_offset)) break;
      nbytes = part.slot_offset + part.nbytes;
    }
    const uint64_t place = head.offset.empty() ? 0 : head.offset[0] % kPageBytes;
    const bool straight =
        !head.blocks && nbytes >= kLongBytes && place % alignment == 0 && begins_at(head, place);
    const uint64_t begin =
        straight ? base::round_up(end, kPageBytes) + place : base::round_up(end, kPartAlignment);
    for (size_t i = first; i < last; ++i) layer.parts[i].slot_offset += begin;
    end = begin + nbytes;
    if (straight) end = base::round_up(end, kPageBytes);
    first = last;
  }
}

std::vector<Part> plan_reads(const LayerExperts& layer,
                             const std::vector<std::shared_ptr<io::File>>& files) {
  std::vector<Part> parts = layer.parts, reads;
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return a.slot_offset < b.slot_offset; });
  for (Part& part : parts) {
    if (!reads.empty() && follows(reads.back(), part, part.slot_offset - reads.back().slot_offset))
      reads.back().nbytes = part.slot_offset + part.nbytes - reads.back().slot_offset;
    else
      reads.push_back(std::move(part));
  }
  uint64_t end = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const bool is_last = i + 1 == reads.size();
    widen(reads[i], end, is_last ? layer.slot_bytes() : reads[i + 1].slot_offset, files);
    end = reads[i].slot_offset + reads[i].slot_bytes();
  }
  return reads;
}

}  // namespace moeflux::store
