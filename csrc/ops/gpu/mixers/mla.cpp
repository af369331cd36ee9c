// Latent attention over a device, absorbed: the sums are those of heads as wide as what is cached.
#include "ops/mixers/mla.h"

#include <algorithm>

#include "base/error.h"
#include "ops/gpu/mixers/attend_rows.h"

namespace moeflux::ops {

using namespace gpu;

namespace {

constexpr uint32_t kTile = 4;  // rows that a threadgroup takes of absorb_latent_*

struct LatentRows : AttendRows {
  LatentRows(GpuOps& ops, Bump bump, const Mla& w, uint32_t n, uint32_t context)
      : AttendRows(ops, bump, {w.n_heads, 1, w.cached(), w.rank, true, 0, nullptr, w.scale}, n,
                   context),
        w(w),
        out(bump.take(uint64_t(n) * w.o.out())),
        q_a(bump.take(uint64_t(n) * w.q_a.out())),
        own(bump.take(uint64_t(n) * w.n_heads * w.q_head())),
        kv(bump.take(uint64_t(n) * w.cached())),
        values(bump.take(uint64_t(n) * w.n_heads * w.value_dim)) {}
  const Mla& w;
  float *out, *q_a;
  float *own, *kv, *values;  // queries as they are made, latent and key, what heads find
};

// Turns queries; norms the latents, turns the keys and appends both to the cache.
void cache(const LatentRows& rows, const Segment& segment) {
  const Mla& w = rows.w;
  rows.each_extent(segment, [&](const CacheExtent& extent, uint32_t at, uint32_t n, uint32_t done) {
    const uint64_t row = uint64_t(segment.row) + done, heads = uint64_t(w.n_heads) * w.q_head();
    rows.recorder.run(
        {rows.is_f32 ? "latent_rows_f32" : "latent_rows_bf16"},
        {rows.recorder.out(rows.own + row * heads, n * heads),
         rows.recorder.in(rows.kv + row * w.cached(), uint64_t(n) * w.cached()),
         rows.recorder.in(w.kv_norm, w.rank), rows.recorder.in(w.inv_freq, w.rope_dim / 2),
         rows.recorder.out(rows.q + row * rows.heads, uint64_t(n) * rows.heads),
         rows.cached(extent.keys, at, n), rows.cached(extent.values, at, n)},
        LatentRowsArgs{n, segment.position + done, w.n_heads, w.rank, w.nope_dim, w.rope_dim,
                       w.query_step, w.query_growth, w.norm_eps, w.rope_scale});
  });
}

// f(first, n) for parts of the rows, of `macs` multiply-adds each, of which a dispatch of the kernel
// may have so many.
template <class F>
void in_parts(const LatentRows& rows, const Recorder::Kernel& kernel, uint64_t macs, const F& f) {
  const uint64_t most =
      std::max<uint64_t>(rows.ops.attention_macs(kernel) / macs / kTile, 1) * kTile;
  for (uint32_t first = 0; first < rows.n;) {
    const uint32_t n = static_cast<uint32_t>(std::min<uint64_t>(most, rows.n - first));
    rows.recorder.weigh(n * macs);
    f(first, n);
    first += n;
  }
}

void absorb_keys(const LatentRows& rows) {
  const Mla& w = rows.w;
  const uint64_t heads = w.n_heads, of_row = heads * w.q_head();
  const Recorder::Kernel kernel{"absorb_latent_keys_f32"};
  in_parts(rows, kernel, heads * w.nope_dim * w.rank, [&](uint64_t first, uint32_t n) {
    rows.recorder.run(
        kernel,
        {rows.recorder.in(rows.own + first * of_row, n * of_row),
         rows.recorder.in(w.kv_b, heads * w.kv_head() * w.rank),
         rows.recorder.out(rows.q + first * rows.heads, uint64_t(n) * rows.heads)},
        AbsorbKeysArgs{n, w.n_heads, w.rank, w.cached(), w.nope_dim, w.q_head(), w.kv_head()});
  });
}

void absorb_values(const LatentRows& rows) {
  const Mla& w = rows.w;
  const uint64_t heads = w.n_heads, found = heads * w.rank, values = heads * w.value_dim;
  const Recorder::Kernel kernel{"absorb_latent_values_f32"};
  in_parts(rows, kernel, values * w.rank, [&](uint64_t first, uint32_t n) {
    rows.recorder.run(kernel,
                      {rows.recorder.in(rows.mixed + first * found, n * found),
                       rows.recorder.in(w.kv_b, heads * w.kv_head() * w.rank),
                       rows.recorder.out(rows.values + first * values, n * values)},
                      AbsorbValuesArgs{n, w.n_heads, w.rank, w.nope_dim, w.value_dim});
  });
}

}  // namespace

void mix(GpuOps& ops, const Mla& w, Segments segments, const Rows& normed, float* x) {
  if (w.rank % 4 || w.cached() % 4 || w.cached() > kWidestHead)
    throw NoKernelError("[gpu::mix] latents of attention: expected multiples of 4 up to ",
                        kWidestHead, " with the rotated key, found ", w.rank, " and ", w.cached(),
                        ", which no kernel of a device does; the CPU's do");
  const uint32_t n = normed.n;
  uint32_t context = 0;
  for (const Segment& segment : segments) context = std::max(context, segment.position + segment.n);
  const LatentRows rows(ops, ops.bump(), w, n, context);
  if (w.q_a.out()) {
    const Product products[] = {{&w.q_a, rows.q_a}, {&w.kv_a, rows.kv}};
    project_all(rows.recorder, products, normed.data, n);
    ops.norm(w.q_norm, w.norm_eps, rows.q_a, n, w.q_a.out(), rows.q_a);
    ops.project(w.q_b, rows.q_a, n, rows.own);
  } else {
    const Product products[] = {{&w.q_b, rows.own}, {&w.kv_a, rows.kv}};
    project_all(rows.recorder, products, normed.data, n);
  }
  for (const Segment& segment : segments) cache(rows, segment);
  absorb_keys(rows);
  for (const Segment& segment : segments)
    if (segment.n == 1)
      rows.attend_wide(segment);
    else
      rows.attend(segment);
  absorb_values(rows);
  ops.project(w.o, rows.values, n, rows.out);
  ops.add(rows.out, uint64_t(n) * w.o.out(), x);
}

}  // namespace moeflux::ops
