// Grouped-query attention over a device.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/gpu/mixers/attend_rows.h"

namespace moeflux::ops {

using namespace gpu;

namespace {

constexpr uint32_t kNarrow = 256;  // numbers of a head, at most, of attention_decode's kernels

struct Names {
  std::string_view rows, decode[3];  // decode: of 1, 4 and 8 queries
};
constexpr Names kF32 = {
    "attention_rows_f32",
    {"attention_decode_f32_1", "attention_decode_f32_4", "attention_decode_f32_8"}};
constexpr Names kBf16 = {
    "attention_rows_bf16",
    {"attention_decode_bf16_1", "attention_decode_bf16_4", "attention_decode_bf16_8"}};

AttendHeads heads_of(const Attention& w) {
  const float scale = w.scale != 0 ? w.scale : 1.0f / std::sqrt(static_cast<float>(w.head_dim));
  return {w.n_heads, w.n_kv_heads, w.head_dim, w.head_dim, false, w.window, w.sinks, scale};
}

struct AttentionRows : AttendRows {
  AttentionRows(GpuOps& ops, Bump bump, const Attention& w, uint32_t n, uint32_t context)
      : AttendRows(ops, bump, heads_of(w), n, context),
        w(w),
        names(is_f32 ? kF32 : kBf16),
        out(bump.take(uint64_t(n) * w.o.out())),
        k(bump.take(uint64_t(n) * kv_dim)),
        v(w.v.out() ? bump.take(uint64_t(n) * kv_dim) : k),
        gate(bump.take(uint64_t(n) * w.gate.out())) {}
  const Attention& w;
  const Names& names;
  float *out, *k, *v, *gate;
};

// Norms and rotates the queries in place and the keys into the cache; copies the values there. Of one
// token attend_one() does it, unless its heads are wide or its values are made of what they are not.
void cache(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const bool norms = !w.whole_norms;
  rows.each_extent(segment, [&](const CacheExtent& extent, uint32_t at, uint32_t n, uint32_t done) {
    const uint64_t row = uint64_t(segment.row) + done;
    rows.recorder.run(
        {rows.names.rows},
        {rows.recorder.out(rows.q + row * rows.heads, uint64_t(n) * rows.heads),
         rows.recorder.in(rows.k + row * rows.kv_dim, uint64_t(n) * rows.kv_dim),
         rows.recorder.in(rows.v + row * rows.kv_dim, uint64_t(n) * rows.kv_dim),
         rows.cached(extent.keys, at, n), rows.cached(extent.values, at, n),
         rows.recorder.in(norms ? w.q_norm : nullptr, w.head_dim),
         rows.recorder.in(norms ? w.k_norm : nullptr, w.head_dim),
         rows.recorder.in(w.inv_freq, w.rotary_dim / 2)},
        AttentionRowsArgs{n, segment.position + done, w.n_heads, w.n_kv_heads, w.head_dim,
                          w.rotary_dim, uint32_t(norms && w.q_norm), uint32_t(norms && w.k_norm),
                          uint32_t(w.value_norm), w.eps, w.rope_scale});
  });
}

void attend_one(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const uint32_t len = segment.position + 1;
  const auto [from, split, splits] = rows.splits.one(len);
  const Extents extents(rows, segment, len);
  const bool ends = splits == 1 && w.sinks == nullptr;
  const uint64_t sums = uint64_t(splits) * w.n_heads;
  const device::Argument mixed = rows.mixed_rows(segment);
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
                          rows.of.scale,
                          w.eps,
                          w.rope_scale});
  if (!ends) rows.merge(1, splits, mixed);
}

}  // namespace

CacheForm gpu::GpuOps::cache_form(const CacheShape& cache) const {
  const bool f32 = cache_dtype_ == quant::DType::f32;
  return {
      f32 ? CacheType::f32 : CacheType::bf16,
      uint64_t(kCacheBlock) * cache.n_heads * cache.head_dim * quant::dtype_bytes(cache_dtype_)};
}

void mix(GpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x) {
  if (w.head_dim % 4 || w.head_dim > kWidestHead)
    throw NoKernelError("[gpu::mix] heads of attention: expected a multiple of 4 up to ",
                        kWidestHead, ", found ", w.head_dim,
                        ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  uint32_t context = 0;
  for (const Segment& segment : segments) context = std::max(context, segment.position + segment.n);
  const AttentionRows rows(ops, ops.bump(), w, n, context);
  const Product products[] = {{&w.q, rows.q}, {&w.k, rows.k}, {&w.v, rows.v}, {&w.gate, rows.gate}};
  project_all(rows.recorder, products, normed.data, n);
  if (w.whole_norms && w.q_norm) ops.norm(w.q_norm, w.eps, rows.q, n, rows.heads, rows.q);
  if (w.whole_norms && w.k_norm) ops.norm(w.k_norm, w.eps, rows.k, n, rows.kv_dim, rows.k);
  const bool narrow = w.head_dim <= kNarrow && w.v.out() && !w.value_norm;
  for (const Segment& segment : segments) {
    if (segment.n == 1 && narrow) {
      attend_one(rows, segment);
      continue;
    }
    cache(rows, segment);
    if (segment.n == 1)
      rows.attend_wide(segment);
    else
      rows.attend(segment);
  }
  const uint64_t count = uint64_t(n) * rows.heads;
  if (w.gate.out())
    rows.recorder.run({"sigmoid_gate"}, {rows.recorder.out(rows.mixed, count),
                                         rows.recorder.in(rows.gate, count), u32(count)});
  ops.project(w.o, rows.mixed, n, rows.out);
  if (w.post_norm) ops.norm(w.post_norm, w.eps, rows.out, n, w.o.out(), rows.out);
  ops.add(rows.out, uint64_t(n) * w.o.out(), x);
}

}  // namespace moeflux::ops
