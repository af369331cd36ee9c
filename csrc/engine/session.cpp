#include "engine/session.h"

#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

namespace {

uint64_t blocks_of(uint64_t positions) {
  return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock;
}
uint64_t block_bytes(const model::Layer& layer, const ops::Ops& ops) {
  return layer.mixer == model::Mixer::attention ? ops.cache_block_bytes(layer.attention) : 0;
}
uint64_t state_floats(const model::Layer& layer) {
  if (layer.mixer != model::Mixer::delta_net) return 0;
  const ops::DeltaNet& w = layer.delta_net;
  return uint64_t(w.n_value_heads) * w.value_dim * w.key_dim;
}
uint64_t conv_floats(const model::Layer& layer) {
  if (layer.mixer != model::Mixer::delta_net) return 0;
  return uint64_t(layer.delta_net.conv_width - 1) * layer.delta_net.channels();
}
uint64_t cache_bytes(const model::Weights& weights, uint32_t context, const ops::Ops& ops) {
  uint64_t nbytes = 0;
  for (const model::Layer& layer : weights.layers)
    nbytes += 2 * block_bytes(layer, ops) * blocks_of(context);
  return nbytes;
}
uint64_t all_state_floats(const model::Weights& weights) {
  uint64_t floats = 0;
  for (const model::Layer& layer : weights.layers)
    floats += state_floats(layer) + conv_floats(layer);
  return floats;
}

}  // namespace

uint64_t Session::bytes(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                        const base::Arena& arena) {
  return arena.booked_bytes(cache_bytes(weights, context, ops)) +
         2 * arena.booked_bytes(all_state_floats(weights) * 4);
}

Session::Session(const model::Weights& weights, uint32_t context, const ops::Ops& ops,
                 base::Arena& arena)
    : weights_(weights),
      context_(context),
      state_floats_(all_state_floats(weights)),
      cache_(arena, cache_bytes(weights, context, ops), "a session's KV cache"),
      state_{base::Memory(arena, state_floats_ * 4, "a session's recurrent state"),
             base::Memory(arena, state_floats_ * 4, "a session's recurrent state")} {
  uint64_t cache = 0, state = 0;
  for (const model::Layer& layer : weights.layers) {
    const uint64_t block = block_bytes(layer, ops), nbytes = block * blocks_of(context);
    places_.push_back({block, cache, cache + nbytes, state, state + state_floats(layer)});
    cache += 2 * nbytes;
    state += state_floats(layer) + conv_floats(layer);
  }
}

void Session::reset() {
  position_ = 0;  // KV rows behind it are never read
  if (state_floats_) std::memset(state_[committed_].data(), 0, state_floats_ * 4);
}

ops::Segment Session::segment(size_t index, bool first) const {
  const Place& place = places_[index];
  ops::Segment segment;
  if (place.block_bytes) {
    segment.keys = cache_.data() + place.keys;
    segment.values = cache_.data() + place.values;
    return segment;
  }
  float* working = state_[committed_ ^ 1].as<float>();
  const float* from = first ? state_[committed_].as<float>() : working;
  segment.state_in = from + place.state;
  segment.conv_in = from + place.conv;
  segment.state_out = working + place.state;
  segment.conv_out = working + place.conv;
  return segment;
}

void Session::commit(uint32_t n_tokens) {
  position_ += n_tokens;
  committed_ ^= 1;
}

uint64_t Session::snapshot_bytes() const {
  uint64_t nbytes = state_floats_ * 4;
  for (const Place& place : places_) nbytes += 2 * place.block_bytes * blocks_of(position_);
  return nbytes;
}

std::shared_ptr<Session::Snapshot> Session::save(base::Arena& arena) const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->memory = base::Memory(arena, snapshot_bytes(), "a snapshot");
  snapshot->position = position_;
  std::byte* out = snapshot->memory.data();
  const auto put = [&](const std::byte* from, uint64_t n) {
    if (n) std::memcpy(out, from, n);
    out += n;
  };
  put(state_[committed_].data(), state_floats_ * 4);
  for (const Place& place : places_)
    for (uint64_t at : {place.keys, place.values})
      put(cache_.data() + at, place.block_bytes * blocks_of(position_));
  return snapshot;
}

void Session::restore(const Snapshot& snapshot) {
  if (snapshot.position > context_)
    throw SessionError("[engine::Session] snapshot of " + std::to_string(snapshot.position) +
                       " tokens does not fit a context of " + std::to_string(context_));
  const std::byte* in = snapshot.memory.data();
  const auto get = [&](std::byte* to, uint64_t n) {
    if (n) std::memcpy(to, in, n);
    in += n;
  };
  get(state_[committed_].data(), state_floats_ * 4);
  for (const Place& place : places_)
    for (uint64_t at : {place.keys, place.values})
      get(cache_.data() + at, place.block_bytes * blocks_of(snapshot.position));
  position_ = snapshot.position;
}

}  // namespace moeflux::engine
