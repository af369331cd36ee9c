#include "engine/session.h"

#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

namespace {

uint64_t blocks_of(uint64_t positions) {
  return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock;
}

struct Sizes {  // of a layer, bytes
  Sizes(const model::Layer& layer, const ops::Ops& ops) {
    if (layer.mixer == model::Mixer::attention) {
      block = ops.cache_block_bytes(layer.attention);
    } else {
      const ops::DeltaNet& w = layer.delta_net;
      recurrent = uint64_t(w.n_value_heads) * w.value_dim * w.key_dim * sizeof(float);
      conv = uint64_t(w.conv_width - 1) * w.channels() * sizeof(float);
    }
  }
  uint64_t block = 0;  // of keys, and of values: kCacheBlock positions
  uint64_t recurrent = 0, conv = 0;
};

constexpr char kCache[] = "a layer's KV cache";
constexpr char kState[] = "a layer's recurrent state";

}  // namespace

uint64_t Session::bytes(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                        const base::Arena& arena) {
  uint64_t nbytes = 0;
  for (const model::Layer& layer : weights.layers) {
    const Sizes sizes(layer, ops);
    const uint64_t cache = sizes.block * blocks_of(context), state = sizes.recurrent + sizes.conv;
    arena.check_written(cache, kCache);
    arena.check_written(state, kState);
    nbytes += 2 * (arena.booked_bytes(cache) + arena.booked_bytes(state));
  }
  return nbytes;
}

Session::Session(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                 base::Arena& arena)
    : weights_(weights), context_(context) {
  for (const model::Layer& layer : weights.layers) {
    const Sizes sizes(layer, ops);
    Layer& own = layers_.emplace_back();
    own.block_bytes = sizes.block;
    own.recurrent_bytes = sizes.recurrent;
    own.state_bytes = sizes.recurrent + sizes.conv;
    for (base::Memory* cache : {&own.keys, &own.values})
      *cache = base::Memory::written(arena, cached_bytes(own, context), kCache);
    for (base::Memory& state : own.state)
      state = base::Memory::written(arena, own.state_bytes, kState);
  }
}

uint64_t Session::cached_bytes(const Layer& layer, uint32_t positions) const {
  return layer.block_bytes * blocks_of(positions);
}

void Session::reset() {
  position_ = 0;  // KV rows behind it are never read
  for (Layer& layer : layers_)
    if (layer.state_bytes) std::memset(layer.state[committed_].data(), 0, layer.state_bytes);
}

ops::Segment Session::segment(size_t index, bool first) const {
  const Layer& layer = layers_[index];
  ops::Segment segment;
  if (layer.block_bytes) {
    segment.keys = layer.keys.data();
    segment.values = layer.values.data();
    return segment;
  }
  const base::Memory& working = layer.state[committed_ ^ 1];
  const base::Memory& from = first ? layer.state[committed_] : working;
  const uint64_t conv = layer.recurrent_bytes / sizeof(float);
  segment.state_in = from.as<float>();
  segment.conv_in = from.as<float>() + conv;
  segment.state_out = working.as<float>();
  segment.conv_out = working.as<float>() + conv;
  return segment;
}

void Session::commit(uint32_t n_tokens) {
  position_ += n_tokens;
  committed_ ^= 1;
}

uint64_t Session::snapshot_bytes() const {
  uint64_t nbytes = 0;
  for (const Layer& layer : layers_)
    nbytes += layer.state_bytes + 2 * cached_bytes(layer, position_);
  return nbytes;
}

std::shared_ptr<Session::Snapshot> Session::save(base::Arena& arena) const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->memory = base::Memory(arena, snapshot_bytes(), "a snapshot");
  snapshot->position = position_;
  std::byte* out = snapshot->memory.data();
  const auto put = [&](const base::Memory& from, uint64_t n) {
    if (n) std::memcpy(out, from.data(), n);
    out += n;
  };
  for (const Layer& layer : layers_) {
    put(layer.state[committed_], layer.state_bytes);
    put(layer.keys, cached_bytes(layer, position_));
    put(layer.values, cached_bytes(layer, position_));
  }
  return snapshot;
}

void Session::restore(const Snapshot& snapshot) {
  if (snapshot.position > context_)
    throw SessionError("[engine::Session] snapshot of ", snapshot.position,
                       " tokens does not fit a context of ", context_);
  const std::byte* in = snapshot.memory.data();
  const auto get = [&](const base::Memory& to, uint64_t n) {
    if (n) std::memcpy(to.data(), in, n);
    in += n;
  };
  for (const Layer& layer : layers_) {
    get(layer.state[committed_], layer.state_bytes);
    get(layer.keys, cached_bytes(layer, snapshot.position));
    get(layer.values, cached_bytes(layer, snapshot.position));
  }
  position_ = snapshot.position;
}

}  // namespace moeflux::engine
