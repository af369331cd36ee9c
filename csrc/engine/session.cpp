#include "engine/session.h"

#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

namespace {

uint64_t kv_dim(const model::Layer& layer) {
  if (layer.mixer != model::Mixer::attention) return 0;
  return uint64_t(layer.attention.n_kv_heads) * layer.attention.head_dim;
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
uint64_t cache_floats(const model::Weights& weights, uint32_t context) {
  uint64_t floats = 0;
  for (const model::Layer& layer : weights.layers) floats += 2 * kv_dim(layer) * context;
  return floats;
}
uint64_t all_state_floats(const model::Weights& weights) {
  uint64_t floats = 0;
  for (const model::Layer& layer : weights.layers)
    floats += state_floats(layer) + conv_floats(layer);
  return floats;
}

}  // namespace

uint64_t Session::bytes(const model::Weights& weights, uint32_t context, const base::Arena& arena) {
  return arena.booked_bytes(cache_floats(weights, context) * 4) +
         2 * arena.booked_bytes(all_state_floats(weights) * 4);
}

Session::Session(const model::Weights& weights, uint32_t context, base::Arena& arena)
    : weights_(weights),
      context_(context),
      state_floats_(all_state_floats(weights)),
      cache_(arena, cache_floats(weights, context) * 4, "a session's KV cache"),
      state_{base::Memory(arena, state_floats_ * 4, "a session's recurrent state"),
             base::Memory(arena, state_floats_ * 4, "a session's recurrent state")} {
  uint64_t cache = 0, state = 0;
  for (const model::Layer& layer : weights.layers) {
    const uint64_t kv = kv_dim(layer);
    places_.push_back({cache, cache + kv * context, state, state + state_floats(layer),
                       static_cast<uint32_t>(kv)});
    cache += 2 * kv * context;
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
  if (place.kv_dim) {
    segment.keys = cache_.as<float>() + place.keys;
    segment.values = cache_.as<float>() + place.values;
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
  uint64_t floats = state_floats_;
  for (const Place& place : places_) floats += 2 * uint64_t(place.kv_dim) * position_;
  return floats * 4;
}

std::shared_ptr<Session::Snapshot> Session::save(base::Arena& arena) const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->memory = base::Memory(arena, snapshot_bytes(), "a snapshot");
  snapshot->position = position_;
  snapshot->context = context_;
  float* out = snapshot->memory.as<float>();
  const auto put = [&](const float* from, uint64_t n) {
    if (n) std::memcpy(out, from, n * 4);
    out += n;
  };
  put(state_[committed_].as<float>(), state_floats_);
  for (const Place& place : places_) {
    put(cache_.as<float>() + place.keys, uint64_t(place.kv_dim) * position_);
    put(cache_.as<float>() + place.values, uint64_t(place.kv_dim) * position_);
  }
  return snapshot;
}

void Session::restore(const Snapshot& snapshot) {
  if (snapshot.position > context_)
    throw SessionError("[engine::Session] snapshot of " + std::to_string(snapshot.position) +
                       " tokens does not fit a context of " + std::to_string(context_));
  const float* in = snapshot.memory.as<float>();
  const auto get = [&](float* to, uint64_t n) {
    if (n) std::memcpy(to, in, n * 4);
    in += n;
  };
  get(state_[committed_].as<float>(), state_floats_);
  for (const Place& place : places_) {
    get(cache_.as<float>() + place.keys, uint64_t(place.kv_dim) * snapshot.position);
    get(cache_.as<float>() + place.values, uint64_t(place.kv_dim) * snapshot.position);
  }
  position_ = snapshot.position;
}

}  // namespace moeflux::engine
