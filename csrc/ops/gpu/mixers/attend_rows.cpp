#include "ops/gpu/mixers/attend_rows.h"

#include <algorithm>

namespace moeflux::ops::gpu {

namespace {
constexpr uint64_t kUnit = 16;  // bytes: of the places in a block, as kernels have them
}

AttendRows::AttendRows(GpuOps& gpu, Bump& bump, const AttendHeads& of, uint32_t n, uint32_t context)
    : ops(gpu),
      recorder(gpu.recorder()),
      of(of),
      n(n),
      heads(of.n_heads * of.head_dim),
      kv_dim(of.n_kv_heads * of.head_dim),
      group(of.n_heads / of.n_kv_heads),
      splits{of.n_heads, group, of.head_dim, of.window, of.value_dim},
      is_f32(gpu.cache_dtype() == quant::DType::f32),
      position_bytes(uint64_t(kv_dim) * quant::dtype_bytes(gpu.cache_dtype())),
      q(bump.take(uint64_t(n) * heads)),
      mixed(bump.take(uint64_t(n) * of.n_heads * of.value_dim)),
      partial(bump.take(splits.most_partial(n, context))),
      stats(bump.take(splits.most_stats(n, context))) {}

Extents::Extents(const AttendRows& rows, const Segment& segment, uint32_t len)
    : blocks(Place{}), count((len - 1) / kCacheExtent + 1), last(count - 1) {
  if (segment.blocks == nullptr) return;  // a rehearsal
  blocks = static_cast<const AddressList&>(*segment.blocks).place;
  const auto at = [&](const std::byte* pointer) {
    return word(std::get<device::Slice>(rows.recorder.in(pointer, 1)).offset / kUnit);
  };
  const uint32_t first = rows.splits.one(segment.position + 1).from / kCacheExtent;  // seen
  keys_at = at(segment.cache[first].keys), values_at = at(segment.cache[first].values);
  last_keys_at = at(segment.cache[last].keys), last_values_at = at(segment.cache[last].values);
}

void AttendRows::merge(uint32_t n, uint32_t splits, device::Argument mixed) const {
  const uint32_t all = n * of.n_heads;
  recorder.run({"attention_merge_f32"},
               {recorder.in(partial, uint64_t(splits) * all * of.value_dim),
                recorder.in(stats, uint64_t(splits) * all * 2), sinks(), std::move(mixed)},
               AttentionMergeArgs{all, of.value_dim, splits, of.sinks ? of.n_heads : 0});
}

void AttendRows::attend_wide(const Segment& segment) const {
  const uint32_t len = segment.position + 1;
  const auto [from, split, count] = splits.one(len);
  const Extents extents(*this, segment, len);
  const Recorder::Kernel wide = kernel(is_f32 ? "attention_wide_f32" : "attention_wide_bf16");
  const bool ends = count == 1 && of.sinks == nullptr;
  const uint64_t sums = uint64_t(count) * of.n_heads;
  const device::Argument to = mixed_rows(segment);
  const uint64_t of_split = uint64_t(split) * of.n_heads * (of.head_dim + of.value_dim);
  const uint64_t most = std::max<uint64_t>(ops.attention_macs(wide) / of_split, 1);
  for (uint32_t first = 0; first < count;) {
    const uint32_t parts = static_cast<uint32_t>(std::min<uint64_t>(most, count - first));
    recorder.weigh(parts * of_split);
    recorder.run(
        wide,
        {recorder.in(q + uint64_t(segment.row) * heads, heads), extents.blocks,
         ends ? to : recorder.out(partial, sums * of.value_dim),
         ends ? Place{} : recorder.out(stats, sums * 2)},
        AttentionWideArgs{of.n_heads, group, kv_dim, of.value_dim, uint32_t(of.values_are_keys),
                          from, len, split, count, first, parts, uint32_t(ends), extents.count,
                          extents.last, extents.keys_at, extents.values_at, extents.last_keys_at,
                          extents.last_values_at, of.scale});
    first += parts;
  }
  if (!ends) merge(1, count, to);
}

void AttendRows::attend(const Segment& segment) const {
  const uint32_t end = segment.position + segment.n;
  const AttentionSplits::Many many = splits.many(segment.n, segment.position);
  const Extents extents(*this, segment, end);
  const Recorder::Kernel prefill =
      kernel(is_f32 ? "attention_prefill_f32" : "attention_prefill_bf16");
  const uint64_t n = segment.n, sums = many.splits * n * of.n_heads;
  const device::Argument to = mixed_rows(segment);
  const bool alone = many.splits == 1;
  const device::Argument out = alone ? to : recorder.out(partial, sums * of.value_dim);
  const device::Argument known = recorder.out(stats, splits.slices() * sums * 2);
  const uint64_t most = ops.attention_macs(prefill);
  struct Part {  // of the splits, and of the positions of the one split that there is
    uint32_t tile, tiles, first_split, splits, begin, stop;
    bool resumes, ends;
  };
  const auto dispatch = [&](const Part& part) {
    recorder.weigh(splits.macs(part.tiles, alone ? part.stop - part.begin : many.split) *
                   part.splits);
    recorder.run(prefill,
                 {recorder.in(q + uint64_t(segment.row) * heads, n * heads), extents.blocks, out,
                  known, sinks()},
                 AttentionPrefillArgs{segment.n,
                                      segment.position,
                                      of.n_heads,
                                      group,
                                      kv_dim,
                                      of.value_dim,
                                      of.window,
                                      uint32_t(of.sinks != nullptr),
                                      part.tile,
                                      part.tiles,
                                      many.splits,
                                      many.split,
                                      part.first_split,
                                      part.splits,
                                      part.begin,
                                      part.stop,
                                      uint32_t(part.resumes),
                                      uint32_t(part.ends),
                                      extents.count,
                                      extents.last,
                                      extents.keys_at,
                                      extents.values_at,
                                      extents.last_keys_at,
                                      extents.last_values_at,
                                      of.scale});
  };
  if (alone) {
    const auto [tiles, keys] = splits.part(many, most);
    for (uint32_t tile = 0; tile < many.tiles; tile += tiles) {
      const uint32_t count = std::min(tiles, many.tiles - tile);
      const uint32_t from = splits.seen_from(segment.position, tile);
      const uint32_t to_end = splits.seen_to(segment.position, tile + count, end);
      for (uint32_t begin = from; begin < to_end; begin += keys) {
        const uint32_t stop = std::min(to_end - begin, keys) + begin;
        dispatch({tile, count, 0, 1, begin, stop, begin > from, stop == to_end});
      }
    }
    return;
  }
  const auto [tiles, parts] = splits.part_of_splits(many, most);
  for (uint32_t tile = 0; tile < many.tiles; tile += tiles)
    for (uint32_t first = 0; first < many.splits; first += parts)
      dispatch({tile, std::min(tiles, many.tiles - tile), first,
                std::min(parts, many.splits - first), many.from, end, false, false});
  merge(segment.n, many.splits, to);
}

}  // namespace moeflux::ops::gpu
