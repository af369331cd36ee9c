// Attention over a KV cache in extents, of rows (positions, kv_dim). Which positions a threadgroup
// takes and in which order sums are merged depends on the number of positions, and of rows of the
// session, alone.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/gpu/mixers/attention_splits.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

using namespace gpu;

namespace {

constexpr uint64_t kUnit = 16;  // bytes: of the places in a block, as kernels have them

struct Names {
  std::string_view rows, prefill, decode[3];  // decode: of 1, 4 and 8 queries
};
constexpr Names kF32 = {
    "attention_rows_f32",
    "attention_prefill_f32",
    {"attention_decode_f32_1", "attention_decode_f32_4", "attention_decode_f32_8"}};
constexpr Names kBf16 = {
    "attention_rows_bf16",
    "attention_prefill_bf16",
    {"attention_decode_bf16_1", "attention_decode_bf16_4", "attention_decode_bf16_8"}};

struct AttentionRows {
  AttentionRows(GpuOps& ops, Bump bump, const Attention& w, uint32_t n, uint32_t context)
      : ops(ops),
        recorder(ops.recorder()),
        w(w),
        n(n),
        heads(w.n_heads * w.head_dim),
        kv_dim(w.n_kv_heads * w.head_dim),
        group(w.n_heads / w.n_kv_heads),
        splits{w.n_heads, group, w.head_dim, w.window},
        names(ops.cache_dtype() == quant::DType::f32 ? kF32 : kBf16),
        position_bytes(uint64_t(kv_dim) * quant::dtype_bytes(ops.cache_dtype())),
        out(bump.take(uint64_t(n) * w.o.out())),
        q(bump.take(uint64_t(n) * heads)),
        k(bump.take(uint64_t(n) * kv_dim)),
        v(bump.take(uint64_t(n) * kv_dim)),
        gate(bump.take(uint64_t(n) * w.gate.out())),
        mixed(bump.take(uint64_t(n) * heads)),
        partial(bump.take(splits.most_partial(n, context))),
        stats(bump.take(splits.most_stats(n, context))) {}
  GpuOps& ops;
  Recorder& recorder;
  const Attention& w;
  uint32_t n, heads, kv_dim, group;  // rows; numbers of a row of q, of k; queries of a key head
  AttentionSplits splits;
  const Names& names;
  uint64_t position_bytes;  // of keys, and of values
  float *out, *q, *k, *v, *gate, *mixed;
  float *partial, *stats;  // of one segment

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(w.head_dim)); }
  device::Argument sinks() const { return recorder.in(w.sinks, w.n_heads); }
  Recorder::Kernel kernel(std::string_view name) const { return {name, "HeadDim", w.head_dim}; }
  // Rows of a cache, `n` from `row` of an extent on, for a kernel that writes them.
  device::Argument cached(std::byte* extent, uint32_t row, uint32_t n) const {
    return recorder.out(extent + row * position_bytes, n * position_bytes);
  }
};

// The extents of a segment's first `len` positions, as kernels find them.
struct Extents {
  Extents(const AttentionRows& rows, const Segment& segment, uint32_t len)
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
  device::Argument blocks;
  uint32_t count, last;
  uint32_t keys_at = 0, values_at = 0, last_keys_at = 0, last_values_at = 0;
};

// Norms and rotates the queries in place and the keys into the cache; copies the values there. Of one
// token attend_one() does it.
void cache(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  for (uint32_t done = 0; done < segment.n;) {
    const uint32_t position = segment.position + done, at = position % kCacheExtent;
    const uint32_t n = std::min(segment.n - done, kCacheExtent - at);
    const CacheExtent& extent = segment.cache[position / kCacheExtent];
    const uint64_t row = uint64_t(segment.row) + done;
    const bool norms = !w.whole_norms;
    rows.recorder.run({rows.names.rows},
                      {rows.recorder.out(rows.q + row * rows.heads, uint64_t(n) * rows.heads),
                       rows.recorder.in(rows.k + row * rows.kv_dim, uint64_t(n) * rows.kv_dim),
                       rows.recorder.in(rows.v + row * rows.kv_dim, uint64_t(n) * rows.kv_dim),
                       rows.cached(extent.keys, at, n), rows.cached(extent.values, at, n),
                       rows.recorder.in(norms ? w.q_norm : nullptr, w.head_dim),
                       rows.recorder.in(norms ? w.k_norm : nullptr, w.head_dim),
                       rows.recorder.in(w.inv_freq, w.rotary_dim / 2)},
                      AttentionRowsArgs{n, position, w.n_heads, w.n_kv_heads, w.head_dim,
                                        w.rotary_dim, uint32_t(norms && w.q_norm),
                                        uint32_t(norms && w.k_norm), w.eps, w.rope_scale});
    done += n;
  }
}

// The splits of one token, or of a prompt of few rows, into the rows of `mixed`.
void merge(const AttentionRows& rows, uint32_t n, uint32_t splits, device::Argument mixed) {
  const uint32_t heads = n * rows.w.n_heads;
  rows.recorder.run(
      {"attention_merge_f32"},
      {rows.recorder.in(rows.partial, uint64_t(splits) * heads * rows.w.head_dim),
       rows.recorder.in(rows.stats, uint64_t(splits) * heads * 2), rows.sinks(), std::move(mixed)},
      AttentionMergeArgs{heads, rows.w.head_dim, splits, rows.w.sinks ? rows.w.n_heads : 0});
}

void attend_one(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const uint32_t len = segment.position + 1;
  const auto [from, split, splits] = rows.splits.one(len);
  const Extents extents(rows, segment, len);
  const bool ends = splits == 1 && w.sinks == nullptr;
  const uint64_t sums = uint64_t(splits) * w.n_heads;
  const device::Argument mixed =
      rows.recorder.out(rows.mixed + uint64_t(segment.row) * rows.heads, rows.heads);
  const auto name = rows.names.decode[rows.group == 1 ? 0 : rows.group <= 4 ? 1 : 2];
  const CacheExtent& extent = segment.cache[segment.position / kCacheExtent];
  const uint32_t at = segment.position % kCacheExtent;
  const uint64_t row = segment.row;
  const bool norms = !w.whole_norms;
  rows.recorder.weigh(uint64_t(2) * len * rows.heads);
  rows.recorder.run(
      rows.kernel(name),
      {rows.recorder.in(rows.q + row * rows.heads, rows.heads),
       rows.recorder.in(rows.k + row * rows.kv_dim, rows.kv_dim),
       rows.recorder.in(rows.v + row * rows.kv_dim, rows.kv_dim), rows.cached(extent.keys, at, 1),
       rows.cached(extent.values, at, 1), rows.recorder.in(norms ? w.q_norm : nullptr, w.head_dim),
       rows.recorder.in(norms ? w.k_norm : nullptr, w.head_dim),
       rows.recorder.in(w.inv_freq, w.rotary_dim / 2), extents.blocks,
       ends ? mixed : rows.recorder.out(rows.partial, sums * w.head_dim),
       ends ? Place{} : rows.recorder.out(rows.stats, sums * 2)},
      AttentionDecodeArgs{w.n_heads,
                          rows.group,
                          rows.kv_dim,
                          from,
                          len,
                          split,
                          splits,
                          uint32_t(ends),
                          w.rotary_dim,
                          uint32_t(norms && w.q_norm),
                          uint32_t(norms && w.k_norm),
                          extents.count,
                          extents.last,
                          extents.keys_at,
                          extents.values_at,
                          extents.last_keys_at,
                          extents.last_values_at,
                          rows.scale(),
                          w.eps,
                          w.rope_scale});
  if (!ends) merge(rows, 1, splits, mixed);
}

// A dispatch has a part of the tiles, or of the positions: no bit depends on how large it is.
void attend(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const uint32_t end = segment.position + segment.n;
  const AttentionSplits::Many many = rows.splits.many(segment.n, segment.position);
  const Extents extents(rows, segment, end);
  const uint64_t at = uint64_t(segment.row) * rows.heads, count = uint64_t(segment.n) * rows.heads;
  const device::Argument mixed = rows.recorder.out(rows.mixed + at, count);
  const bool alone = many.splits == 1;
  const device::Argument out = alone ? mixed : rows.recorder.out(rows.partial, many.splits * count);
  const device::Argument stats = rows.recorder.out(
      rows.stats, uint64_t(rows.splits.slices()) * many.splits * segment.n * w.n_heads * 2);
  const auto [tiles, keys] =
      rows.splits.part(many, rows.ops.attention_macs(rows.kernel(rows.names.prefill)));
  for (uint32_t tile = 0; tile < many.tiles; tile += tiles) {
    const uint32_t of_part = std::min(tiles, many.tiles - tile);
    const uint32_t from = alone ? rows.splits.seen_from(segment.position, tile) : many.from;
    const uint32_t to = alone ? rows.splits.seen_to(segment.position, tile + of_part, end) : end;
    const uint32_t step = alone ? keys : end;
    for (uint32_t begin = from; begin < to; begin += step) {
      const uint32_t stop = std::min(to - begin, step) + begin;
      rows.recorder.weigh(rows.splits.macs(of_part, stop - begin));
      rows.recorder.run(
          rows.kernel(rows.names.prefill),
          {rows.recorder.in(rows.q + at, count), extents.blocks, out, stats, rows.sinks()},
          AttentionPrefillArgs{segment.n,
                               segment.position,
                               w.n_heads,
                               rows.group,
                               rows.kv_dim,
                               w.window,
                               uint32_t(w.sinks != nullptr),
                               tile,
                               of_part,
                               many.splits,
                               many.split,
                               begin,
                               stop,
                               uint32_t(begin > from),
                               uint32_t(alone && stop == to),
                               extents.count,
                               extents.last,
                               extents.keys_at,
                               extents.values_at,
                               extents.last_keys_at,
                               extents.last_values_at,
                               rows.scale()});
    }
  }
  if (!alone) merge(rows, segment.n, many.splits, mixed);
}

}  // namespace

CacheForm gpu::GpuOps::cache_form(const CacheShape& cache) const {
  const bool f32 = cache_dtype_ == quant::DType::f32;
  return {
      f32 ? CacheType::f32 : CacheType::bf16,
      uint64_t(kCacheBlock) * cache.n_heads * cache.head_dim * quant::dtype_bytes(cache_dtype_)};
}

void mix(GpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x) {
  if (w.head_dim % 4 || w.head_dim > 256)
    throw NoKernelError("[gpu::mix] heads of attention: expected a multiple of 4 up to 256, found ",
                        w.head_dim, ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  uint32_t context = 0;
  for (const Segment& segment : segments) context = std::max(context, segment.position + segment.n);
  if (w.v.out() == 0 || w.value_norm || w.scale != 0 || w.post_norm)
    throw NoKernelError(
        "[gpu::mix] expected attention without norms of values and of its output, found attention "
        "with them, which no kernel of a device does; the CPU's do");
  const AttentionRows rows(ops, ops.bump(), w, n, context);
  const Product products[] = {{&w.q, rows.q}, {&w.k, rows.k}, {&w.v, rows.v}, {&w.gate, rows.gate}};
  project_all(rows.recorder, products, normed.data, n);
  if (w.whole_norms && w.q_norm) ops.norm(w.q_norm, w.eps, rows.q, n, rows.heads, rows.q);
  if (w.whole_norms && w.k_norm) ops.norm(w.k_norm, w.eps, rows.k, n, rows.kv_dim, rows.k);
  for (const Segment& segment : segments) {
    if (segment.n == 1) {
      attend_one(rows, segment);
    } else {
      cache(rows, segment);
      attend(rows, segment);
    }
  }
  const uint64_t count = uint64_t(n) * rows.heads;
  if (w.gate.out())
    rows.recorder.run({"sigmoid_gate"}, {rows.recorder.out(rows.mixed, count),
                                         rows.recorder.in(rows.gate, count), u32(count)});
  ops.project(w.o, rows.mixed, n, rows.out);
  ops.add(rows.out, uint64_t(n) * w.o.out(), x);
}

}  // namespace moeflux::ops
