#include "engine/session.h"

#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

Session::Session(const model::Weights& weights, const SessionLayout& layout, base::Arena& arena)
    : weights_(weights), layout_(layout), arena_(arena), cache_(layout, arena) {
  for (const SessionLayout::Layer& layer : layout.layers()) {
    State& own = states_.emplace_back();
    for (base::Memory& memory : own.memory)
      memory = base::Memory::written(arena, layer.state_bytes, "a layer's recurrent state");
  }
}

void Session::reset() {
  position_ = 0;
  cache_.trim(0);
  for (size_t i = 0; i < states_.size(); ++i)
    states_[i].memory[committed_].clear(0, layout_.layers()[i].state_bytes);
}

ops::Segment Session::segment(size_t index, bool first) const {
  const base::Memory& working = states_[index].memory[committed_ ^ 1];
  const base::Memory& from = first ? states_[index].memory[committed_] : working;
  ops::Segment segment;
  segment.cache = cache_.of_layer(index);
  segment.blocks = cache_.blocks_of_layer(index);
  segment.state_in = from.as<float>();
  segment.state_out = working.as<float>();
  return segment;
}

void Session::commit(uint32_t n_tokens) {
  position_ += n_tokens;
  committed_ ^= 1;
}

uint64_t Session::snapshot_bytes() const {
  return arena_.booked_bytes(layout_.states_bytes()) + cache_.save_bytes(position_);
}

std::shared_ptr<Session::Snapshot> Session::save() const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->states = base::Memory(arena_, layout_.states_bytes(), "a snapshot");
  snapshot->cache = cache_.save(position_);
  std::byte* out = snapshot->states.mapped();
  for (size_t i = 0; i < states_.size(); ++i) {
    const uint64_t nbytes = layout_.layers()[i].state_bytes;
    if (nbytes) std::memcpy(out, states_[i].memory[committed_].mapped(), nbytes);
    out += nbytes;
  }
  return snapshot;
}

uint64_t Session::blank_bytes(const SessionLayout& layout, uint32_t positions,
                              const base::Arena& arena) {
  return arena.booked_bytes(layout.states_bytes()) + KvCache::blank_bytes(layout, positions);
}

std::shared_ptr<Session::Snapshot> Session::blank(const SessionLayout& layout, uint32_t positions,
                                                  base::Arena& arena) {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->states = base::Memory(arena, layout.states_bytes(), "a snapshot");
  snapshot->cache = KvCache::blank(layout, positions, arena);
  return snapshot;
}

void Session::restore(const Snapshot& snapshot) {
  cache_.restore(snapshot.cache);
  const std::byte* in = snapshot.states.mapped();
  for (size_t i = 0; i < states_.size(); ++i) {
    const uint64_t nbytes = layout_.layers()[i].state_bytes;
    if (nbytes) std::memcpy(states_[i].memory[committed_].mapped(), in, nbytes);
    in += nbytes;
  }
  position_ = snapshot.cache.positions;
}

std::shared_ptr<Session> Session::fork() const {
  auto other = std::make_shared<Session>(weights_, layout_, arena_);
  other->cache_.restore(cache_.hold(position_));
  for (size_t i = 0; i < states_.size(); ++i)
    if (const uint64_t nbytes = layout_.layers()[i].state_bytes)
      std::memcpy(other->states_[i].memory[0].mapped(), states_[i].memory[committed_].mapped(),
                  nbytes);
  other->position_ = position();
  return other;
}

uint64_t Session::truncate_bytes(uint32_t n) const {
  if (n > position_)
    throw SessionError("[engine::Session] expected a number of tokens up to ", position(),
                       ", which the session holds, found ", n);
  if (n < position_ && !truncatable())
    throw SessionError(
        "[engine::Session] expected layers of attention alone, whose past is in the "
        "KV cache, found recurrent state: go back to a snapshot");
  return cache_.truncate_bytes(n);
}

void Session::truncate(uint32_t n) {
  cache_.truncate(n);
  position_ = n;
}

}  // namespace moeflux::engine
