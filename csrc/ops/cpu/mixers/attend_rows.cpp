#include "ops/cpu/mixers/attend_rows.h"

#include <cmath>
#include <limits>

namespace moeflux::ops::cpu {

namespace {

struct RowTile {  // consecutive rows of one session
  uint32_t row, n;
};

// The queries of `n` rows of one session from `row` on that share a key head, over one span, into
// states (n, group).
void attend_span(const AttentionRows& rows, uint32_t row, uint32_t n, uint32_t kv_head,
                 uint32_t span, float* states, float* scratch) {
  const Heads& w = rows.w;
  const uint32_t n_queries = n * rows.group, first = span * kSpan;
  std::vector<const float*> queries(n_queries);
  std::vector<uint32_t> begins(n_queries), lens(n_queries);
  std::vector<float*> to(n_queries);
  for (uint32_t i = 0; i < n_queries; ++i) {
    const uint32_t of = row + i / rows.group, head = kv_head * rows.group + i % rows.group;
    const uint32_t seen = rows.position[of] + 1;
    queries[i] = rows.q + uint64_t(of) * rows.heads + head * w.head_dim;
    const uint32_t begin = std::max(rows.first_seen(of), first) - first;
    const uint32_t end = seen <= first ? 0 : std::min(seen - first, kSpan);
    begins[i] = begin < end ? begin : 0;
    lens[i] = begin < end ? end : 0;
    to[i] = states + uint64_t(i) * rows.state_floats;
  }
  const uint64_t block_bytes = w.n_kv_heads * rows.head_bytes;
  const CacheExtent& extent = rows.segment[row]->cache[first / kCacheExtent];
  const uint64_t at = first % kCacheExtent / kCacheBlock * block_bytes + kv_head * rows.head_bytes;
  rows.ops.kernels().attend({rows.type, extent.keys + at, extent.values + at, block_bytes,
                             w.head_dim, w.scale, n_queries, queries.data(), begins.data(),
                             lens.data(), to.data(), scratch,
                             scratch + uint64_t(n_queries) * kSpan});
}

void finish_head(const AttentionRows& rows, uint64_t row, uint32_t kv_head, const float* states) {
  const Heads& w = rows.w;
  for (uint32_t g = 0; g < rows.group; ++g) {
    const float* state = states + uint64_t(g) * rows.state_floats;
    const uint32_t head = kv_head * rows.group + g;
    const uint64_t at = row * rows.heads + uint64_t(head) * w.head_dim;
    float scale = 1, total = state[1];
    if (w.sinks) {
      const float top = std::max(state[0], w.sinks[head]);
      scale = std::exp(state[0] - top);
      total = total * scale + std::exp(w.sinks[head] - top);
    }
    for (uint32_t d = 0; d < w.head_dim; ++d) rows.mixed[at + d] = state[16 + d] * scale / total;
    if (rows.gate) rows.ops.kernels().sigmoid_gate(rows.mixed + at, rows.gate + at, w.head_dim);
  }
}

// Runs of rows: a task takes all spans of a tile, one after the other.
void attend_tiles(const AttentionRows& rows, std::span<const RowTile> tiles) {
  const uint32_t n_kv = rows.w.n_kv_heads;
  uint32_t most = 0;
  for (const RowTile& tile : tiles) most = std::max(most, tile.n);
  const uint32_t queries = most * rows.group;
  const uint64_t floats =
      uint64_t(queries) * rows.state_floats + attend_scratch_floats(rows.w.head_dim, queries);
  float* workers = rows.ops.worker_floats(floats);
  rows.ops.pool().parallel_for(static_cast<int>(tiles.size() * n_kv), [&](int task, int worker) {
    const auto [row, n] = tiles[tiles.size() - 1 - task / n_kv];  // the longest contexts first
    const uint32_t kv_head = task % n_kv;
    float* states = workers + worker * floats;
    float* scratch = states + uint64_t(n) * rows.group * rows.state_floats;
    rows.clear(states, n * rows.group);
    for (uint32_t span = rows.first_span(row); span < rows.end_span(row + n - 1); ++span)
      attend_span(rows, row, n, kv_head, span, states, scratch);
    for (uint32_t i = 0; i < n; ++i)
      finish_head(rows, row + i, kv_head, states + uint64_t(i) * rows.group * rows.state_floats);
  });
}

// Single rows: a task takes one span, so that a long context uses every thread; a row's spans are
// merged in the order in which attend_tiles computes them. Takes as many rows at a time as the
// states of all their spans have room for.
void attend_single(const AttentionRows& rows, std::span<const uint32_t> single) {
  struct Piece {
    uint32_t row, kv_head, span;
    float* states;                            // (group)
    bool follows(const Piece& other) const {  // of the same head
      return row == other.row && kv_head == other.kv_head;
    }
  };
  const uint64_t piece_floats = uint64_t(rows.group) * rows.state_floats;
  uint64_t most = 0;
  for (uint32_t row : single) most = std::max<uint64_t>(most, rows.most_spans(row));
  rows.ops.buffers().spans.start();
  float* states = rows.ops.buffers().spans.take(most * rows.w.n_kv_heads * piece_floats);
  const uint64_t room = rows.ops.buffers().spans.most() / sizeof(float) / piece_floats;
  const uint64_t floats = attend_scratch_floats(rows.w.head_dim, rows.group);
  float* workers = rows.ops.worker_floats(floats);
  if (rows.ops.pool().idle()) return;
  for (size_t begin = 0; begin < single.size();) {
    std::vector<Piece> pieces;
    for (; begin < single.size(); ++begin) {
      const uint32_t row = single[begin], first = rows.first_span(row), end = rows.end_span(row);
      if (!pieces.empty() && pieces.size() + uint64_t(end - first) * rows.w.n_kv_heads > room)
        break;
      for (uint32_t kv_head = 0; kv_head < rows.w.n_kv_heads; ++kv_head)
        for (uint32_t span = first; span < end; ++span)
          pieces.push_back({row, kv_head, span, states + pieces.size() * piece_floats});
    }
    rows.ops.pool().parallel_for(static_cast<int>(pieces.size()), [&](int task, int worker) {
      const Piece& piece = pieces[task];
      rows.clear(piece.states, rows.group);
      attend_span(rows, piece.row, 1, piece.kv_head, piece.span, piece.states,
                  workers + worker * floats);
    });
    for (size_t i = 0; i < pieces.size();) {
      const Piece& whole = pieces[i];
      for (++i; i < pieces.size() && pieces[i].follows(pieces[i - 1]); ++i)
        for (uint32_t g = 0; g < rows.group; ++g)
          rows.ops.kernels().attend_merge(pieces[i].states + uint64_t(g) * rows.state_floats,
                                          rows.w.head_dim,
                                          whole.states + uint64_t(g) * rows.state_floats);
      finish_head(rows, whole.row, whole.kv_head, whole.states);
    }
  }
}

}  // namespace

AttentionRows::AttentionRows(CpuOps& ops, const Heads& w, const CacheShape& cache,
                             Segments segments, uint32_t n, float* q, float* mixed,
                             const float* gate)
    : ops(ops),
      w(w),
      group(w.n_heads / w.n_kv_heads),
      heads(w.n_heads * w.head_dim),
      q(q),
      mixed(mixed),
      gate(gate),
      segment(n),
      position(n),
      state_floats(attend_state_floats(w.head_dim)) {
  const CacheForm form = ops.cache_form(cache);
  type = form.type;
  head_bytes = form.block_bytes / w.n_kv_heads;
  for (const Segment& of : segments)
    for (uint32_t i = 0; i < of.n; ++i) {
      segment[of.row + i] = &of;
      position[of.row + i] = of.position + i;
    }
}

void AttentionRows::clear(float* states, uint64_t count) const {
  std::fill_n(states, count * state_floats, 0.0f);
  for (uint64_t i = 0; i < count; ++i)
    states[i * state_floats] = -std::numeric_limits<float>::infinity();
}

// Kept until the positions change.
const float* AttentionRows::rope(const float* inv_freq, float scale, uint32_t half) const {
  const CpuOps::RopeKey key{inv_freq, scale, half, position};
  ops.buffers().rope.start();
  float* table = ops.buffers().rope.take(position.size() * 2 * half);
  if (ops.rope_key == key) return table;
  ops.rope_key = {};  // an interrupt may leave the table half filled
  ops.pool().parallel_for(static_cast<int>(position.size()), [&](int row, int) {
    float* cosine = table + uint64_t(row) * 2 * half;
    for (uint32_t i = 0; i < half; ++i) {  // angles in f32, as transformers computes them
      const float angle = static_cast<float>(position[row]) * inv_freq[i];
      cosine[i] = std::cos(angle) * scale;
      cosine[half + i] = std::sin(angle) * scale;
    }
  });
  ops.rope_key = key;
  return table;
}

void AttentionRows::put(uint32_t row, uint32_t kv_head, const float* key,
                        const float* value) const {
  const uint32_t at = position[row], block = at % kCacheExtent / kCacheBlock;
  const CacheExtent& extent = segment[row]->cache[at / kCacheExtent];
  const uint64_t offset = (uint64_t(block) * w.n_kv_heads + kv_head) * head_bytes;
  ops.kernels().cache_put(type, key, value, w.head_dim, at % kCacheBlock, extent.keys + offset,
                          extent.values + offset);
}

void AttentionRows::attend(Segments segments) const {
  std::vector<RowTile> tiles;
  std::vector<uint32_t> single;
  const uint32_t tile = attend_tile_rows(group);
  for (const Segment& of : segments)
    for (uint32_t i = 0; i < of.n; i += tile) {
      const uint32_t left = of.n - i;
      if (left > 1 && tile > 1)
        tiles.push_back({of.row + i, std::min(tile, left)});
      else
        single.push_back(of.row + i);
    }
  attend_tiles(*this, tiles);
  attend_single(*this, single);
}

CacheForm CpuOps::cache_form(const CacheShape& cache) const {
  return {cache_type_, cache.n_heads * cache_head_bytes(cache_type_, cache.head_dim)};
}

}  // namespace moeflux::ops::cpu
