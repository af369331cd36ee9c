// Attention of queries over a KV cache, whatever made the queries and the cache: for mixers.
#pragma once
#include <algorithm>
#include <vector>

#include "ops/cpu/cpu_ops.h"

namespace moeflux::ops::cpu {

struct Heads {  // of queries and of the cache
  uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  float scale = 1;      // of scores
  uint32_t window = 0;  // positions that a query sees, its own among them; 0: all before it
  const float* sinks = nullptr;  // (n_heads) what joins a softmax as the score of no value; or none
};

// What the steps of one attention stage share. Rows are of all segments.
struct AttentionRows {
  // Takes nothing of buffers().stage. q and mixed are (rows, n_heads * head_dim); gate, too, or none.
  AttentionRows(CpuOps& ops, const Heads& w, const CacheShape& cache, Segments segments, uint32_t n,
                float* q, float* mixed, const float* gate);

  CpuOps& ops;
  const Heads w;
  CacheType type;       // of the cache
  uint32_t group;       // query heads of a key head
  uint32_t heads;       // numbers of a row of q
  uint64_t head_bytes;  // of one key head in a block of the cache
  float *q, *mixed;
  const float* gate;                    // multiplies mixed through a sigmoid
  std::vector<const Segment*> segment;  // by row
  std::vector<uint32_t> position;       // by row
  uint32_t state_floats;

  // cos and sin of the rows' angles, (rows, 2, half): the same for every layer.
  const float* rope(const float* inv_freq, float scale, uint32_t half) const;
  // Appends a row's key and value of one key head to the cache.
  void put(uint32_t row, uint32_t kv_head, const float* key, const float* value) const;
  void attend(Segments segments) const;  // q over the cache, into mixed

  // The first position that a row sees. It and all up to the row's own lie in spans [first, end).
  uint32_t first_seen(uint32_t row) const {
    return w.window && position[row] >= w.window ? position[row] + 1 - w.window : 0;
  }
  uint32_t first_span(uint32_t row) const { return first_seen(row) / kSpan; }
  uint32_t end_span(uint32_t row) const { return position[row] / kSpan + 1; }
  uint32_t most_spans(uint32_t row) const {  // of this position or one before it
    return w.window ? std::min(end_span(row), (w.window - 1) / kSpan + 2) : end_span(row);
  }
  void clear(float* states, uint64_t count) const;
};

}  // namespace moeflux::ops::cpu
