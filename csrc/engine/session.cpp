#include <cstring>

#include "base/error.h"
#include "engine/engine.h"

namespace moeflux::engine {

namespace {

uint64_t cache_block_bytes(const model::Layer& layer, ops::Precision precision) {
  return layer.mixer == model::Mixer::attention ? layer.attention.cache_block_bytes(precision) : 0;
}
uint64_t blocks_of(uint64_t positions) {
  return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock;
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
uint64_t cache_bytes(const model::Weights& weights, uint32_t context, ops::Precision precision) {
  uint64_t nbytes = 0;
  for (const model::Layer& layer : weights.layers)
    nbytes += 2 * cache_block_bytes(layer, precision) * blocks_of(context);
  return nbytes;
}
uint64_t all_state_floats(const model::Weights& weights) {
  uint64_t floats = 0;
  for (const model::Layer& layer : weights.layers)
    floats += state_floats(layer) + conv_floats(layer);
  return floats;
}

}  // namespace

uint64_t Session::bytes(const model::Weights& weights, uint32_t context, ops::Precision precision) {
  return base::round_up(cache_bytes(weights, context, precision), base::kPageBytes) +
         2 * base::round_up(all_state_floats(weights) * 4, base::kPageBytes);
}

Session::Session(const model::Weights& weights, uint32_t context, ops::Precision precision,
                 base::Account& account)
    : context_(context),
      state_floats_(all_state_floats(weights)),
      cache_(account, cache_bytes(weights, context, precision), "a session's KV cache"),
      state_{base::Memory(account, state_floats_ * 4, "a session's recurrent state"),
             base::Memory(account, state_floats_ * 4, "a session's recurrent state")} {
  uint64_t cache = 0, state = 0;
  for (const model::Layer& layer : weights.layers) {
    const uint64_t block = cache_block_bytes(layer, precision);
    places_.push_back(
        {cache, cache + block * blocks_of(context), state, state + state_floats(layer)});
    block_bytes_.push_back(block);
    cache += 2 * block * blocks_of(context);
    state += state_floats(layer) + conv_floats(layer);
  }
}

void Session::reset() {
  position_ = 0;  // KV rows behind it are never read
  if (state_floats_) std::memset(state_[committed_].data(), 0, state_floats_ * 4);
}

uint64_t Session::snapshot_bytes() const {
  uint64_t nbytes = state_floats_ * 4;
  for (uint64_t block : block_bytes_) nbytes += 2 * block * blocks_of(position_);
  return nbytes;
}

std::shared_ptr<Session::Snapshot> Session::save(base::Account& account) const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->memory = base::Memory(account, snapshot_bytes(), "a snapshot");
  snapshot->position = position_;
  snapshot->context = context_;
  std::byte* out = snapshot->memory.data();
  const auto put = [&](const std::byte* from, uint64_t n) {
    if (n) std::memcpy(out, from, n);
    out += n;
  };
  put(state_[committed_].data(), state_floats_ * 4);
  for (size_t i = 0; i < places_.size(); ++i) {
    put(cache_.data() + places_[i].keys, block_bytes_[i] * blocks_of(position_));
    put(cache_.data() + places_[i].values, block_bytes_[i] * blocks_of(position_));
  }
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
  for (size_t i = 0; i < places_.size(); ++i) {
    get(cache_.data() + places_[i].keys, block_bytes_[i] * blocks_of(snapshot.position));
    get(cache_.data() + places_[i].values, block_bytes_[i] * blocks_of(snapshot.position));
  }
  position_ = snapshot.position;
}

}  // namespace moeflux::engine
