// Attention over a KV cache that is (positions, kv_dim) f32 in one extent, as the kernels want it.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops {

using namespace gpu;

namespace {
constexpr uint32_t kChunkPositions = 512;  // two blocks of attention_decode_f32
constexpr uint32_t kMaxChunks = 64;        // of one merge
constexpr uint32_t kQueries = 16;          // rows of a group of attention_prefill_f32

uint32_t n_chunks(uint32_t positions) {
  return std::min((positions + kChunkPositions - 1) / kChunkPositions, kMaxChunks);
}

struct AttentionRows {
  AttentionRows(GpuOps& ops, Bump bump, const Attention& w, uint32_t n, uint32_t context)
      : ops(ops),
        recorder(ops.recorder()),
        w(w),
        n(n),
        heads(w.n_heads * w.head_dim),
        kv_dim(w.n_kv_heads * w.head_dim),
        out(bump.take(uint64_t(n) * w.o.out())),
        q(bump.take(uint64_t(n) * heads)),
        k(bump.take(uint64_t(n) * kv_dim)),
        v(bump.take(uint64_t(n) * kv_dim)),
        gate(bump.take(uint64_t(n) * w.gate.out())),
        mixed(bump.take(uint64_t(n) * heads)),
        normed(bump.take(w.whole_norms ? uint64_t(n) * heads : 0)),
        scores(bump.take(uint64_t(w.n_heads) * std::min(context, kScoredPositions))),
        partial(bump.take(uint64_t(n_chunks(context)) * heads)),
        stats(bump.take(uint64_t(n_chunks(context)) * w.n_heads * 2)) {}
  GpuOps& ops;
  Recorder& recorder;
  const Attention& w;
  uint32_t n, heads, kv_dim;  // rows; numbers of a row of q, of k
  float *out, *q, *k, *v, *gate, *mixed;
  float* normed;                    // whole rows of q or of k
  float *scores, *partial, *stats;  // of one row

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(w.head_dim)); }
  static float* at(std::byte* cache, uint32_t position, uint32_t kv_dim) {
    return reinterpret_cast<float*>(cache) + uint64_t(position) * kv_dim;
  }
};

// Norms and rotates the queries in place and the keys into the cache.
void cache(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const auto rotate = [&](const float* x, const float* weight, uint32_t heads, uint32_t rotary_dim,
                          float* out) {
    const uint32_t width = heads * w.head_dim;
    const uint64_t count = uint64_t(segment.n) * width;
    if (w.whole_norms && weight) {
      rows.ops.norm(weight, w.eps, x, segment.n, width, rows.normed);
      x = rows.normed, weight = nullptr;
    }
    rows.recorder.run({"norm_rope_f32"},
                      {rows.recorder.in(x, count), rows.recorder.in(weight, w.head_dim),
                       rows.recorder.in(w.inv_freq, rotary_dim / 2), rows.recorder.out(out, count)},
                      NormRopeArgs{segment.n, heads, w.head_dim, rotary_dim, width, width,
                                   segment.position, weight != nullptr, w.eps, w.rope_scale});
  };
  float* q = rows.q + uint64_t(segment.row) * rows.heads;
  const uint64_t kv_at = uint64_t(segment.row) * rows.kv_dim;
  rotate(q, w.q_norm, w.n_heads, w.rotary_dim, q);
  rotate(rows.k + kv_at, w.k_norm, w.n_kv_heads, w.rotary_dim,
         AttentionRows::at(segment.cache->keys, segment.position, rows.kv_dim));
  if (rows.v == nullptr) return;  // where they belong already
  rotate(rows.v + kv_at, nullptr, w.n_kv_heads, 0,
         AttentionRows::at(segment.cache->values, segment.position, rows.kv_dim));
}

void attend_part(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const uint64_t cached = (uint64_t(segment.position) + segment.n) * rows.kv_dim;
  const uint64_t at = uint64_t(segment.row) * rows.heads;
  const uint64_t count = uint64_t(segment.n) * rows.heads;
  rows.recorder.weigh(2 * count * (uint64_t(segment.position) + segment.n));
  rows.recorder.run(
      {"attention_prefill_f32"},
      {rows.recorder.in(rows.q + at, count),
       rows.recorder.in(AttentionRows::at(segment.cache->keys, 0, 0), cached),
       rows.recorder.in(AttentionRows::at(segment.cache->values, 0, 0), cached),
       rows.recorder.out(rows.mixed + at, count)},
      AttentionPrefillArgs{segment.n, segment.position, w.n_heads, w.n_heads / w.n_kv_heads,
                           w.head_dim, rows.kv_dim, rows.scale()});
}

// A cut between groups changes no bit: a group reads its own rows and the cache alone.
void attend(const AttentionRows& rows, const Segment& segment) {
  const uint32_t most = prefill_rows(segment.n, uint64_t(segment.position) + segment.n, rows.heads,
                                     rows.ops.attention_macs());
  for (uint32_t first = 0; first < segment.n; first += most) {
    Segment part = segment;
    part.row += first;
    part.position += first;
    part.n = std::min(most, segment.n - first);
    attend_part(rows, part);
  }
}

void attend_one(const AttentionRows& rows, const Segment& segment) {
  const Attention& w = rows.w;
  const uint32_t len = segment.position + 1, group = w.n_heads / w.n_kv_heads;
  const uint64_t cached = uint64_t(len) * rows.kv_dim, at = uint64_t(segment.row) * rows.heads;
  const auto q = rows.recorder.in(rows.q + at, rows.heads);
  const auto keys = rows.recorder.in(AttentionRows::at(segment.cache->keys, 0, 0), cached);
  const auto values = rows.recorder.in(AttentionRows::at(segment.cache->values, 0, 0), cached);
  const auto mixed = rows.recorder.out(rows.mixed + at, rows.heads);
  if (len <= kScoredPositions) {
    const uint64_t count = uint64_t(w.n_heads) * len;
    const auto scores = rows.recorder.out(rows.scores, count);
    rows.recorder.run_groups({"attn_scores_batched"}, count,
                             {q, keys, scores, u32(w.head_dim), u32(rows.kv_dim), u32(len),
                              u32(len), f32(rows.scale()), u32(group), u32(len)});
    rows.recorder.run_groups({"attn_softmax_batched"}, w.n_heads, {scores, u32(len), u32(len)});
    rows.recorder.run_threads(
        {"attn_values_batched"}, rows.heads,
        {scores, values, mixed, u32(w.head_dim), u32(rows.kv_dim), u32(len), u32(len), u32(group)});
    return;
  }
  const uint32_t chunks = n_chunks(len);
  const auto partial = rows.recorder.out(rows.partial, uint64_t(chunks) * rows.heads);
  const auto stats = rows.recorder.out(rows.stats, uint64_t(chunks) * w.n_heads * 2);
  rows.recorder.run(
      {"attention_decode_f32"}, {q, keys, values, partial, stats},
      AttentionDecodeArgs{w.n_heads, group, w.head_dim, rows.kv_dim, len, chunks, rows.scale()});
  rows.recorder.run({"attention_merge_f32"},
                    {partial, stats, mixed, u32(w.n_heads), u32(w.head_dim), u32(chunks)});
}

}  // namespace

uint32_t gpu::prefill_rows(uint32_t n, uint64_t end, uint64_t heads_dim, uint64_t most_macs) {
  // q times keys, weights times values.
  const uint64_t group_macs = 2 * kQueries * heads_dim * end;
  const uint64_t groups = std::max<uint64_t>(most_macs / group_macs, 1);
  return static_cast<uint32_t>(std::min<uint64_t>(n, groups * kQueries));
}

CacheForm gpu::GpuOps::cache_form(const CacheShape& cache) const {
  return {quant::DType::f32, kWholeContext,
          uint64_t(kCacheBlock) * cache.n_heads * cache.head_dim * sizeof(float)};
}

void mix(GpuOps& ops, const Attention& w, Segments segments, const Rows& normed, float* x) {
  if (w.window || w.sinks)
    throw FormatError("[gpu::mix] expected attention to all positions alone, found ",
                      w.window ? "a sliding window" : "attention sinks",
                      ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  uint32_t context = 0;
  for (const Segment& segment : segments) context = std::max(context, segment.position + segment.n);
  AttentionRows rows(ops, ops.bump(), w, n, context);
  ops.project(w.q, normed.data, n, rows.q);
  ops.project(w.gate, normed.data, n, rows.gate);
  ops.project(w.k, normed.data, n, rows.k);
  if (segments.size() == 1) {  // rows lie in the cache as the product writes them
    ops.project(w.v, normed.data, n,
                AttentionRows::at(segments[0].cache->values, segments[0].position, rows.kv_dim));
    rows.v = nullptr;
  } else {
    ops.project(w.v, normed.data, n, rows.v);
  }
  for (const Segment& segment : segments) cache(rows, segment);
  for (const Segment& segment : segments)
    segment.n == 1 ? attend_one(rows, segment) : attend(rows, segment);
  const uint64_t count = uint64_t(n) * rows.heads;
  if (w.gate.out())
    rows.recorder.run({"sigmoid_gate"}, {rows.recorder.out(rows.mixed, count),
                                         rows.recorder.in(rows.gate, count), u32(count)});
  ops.project(w.o, rows.mixed, n, rows.out);
  ops.add(rows.out, uint64_t(n) * w.o.out(), x);
}

}  // namespace moeflux::ops
