#include "engine/session.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace moeflux::engine {

Session::Session(const model::Weights& weights, const SessionLayout& layout, base::Arena& arena)
    : weights_(weights), layout_(layout), arena_(arena) {
  for (const CacheLayout& cache : layout.caches()) caches_.emplace_back(cache, arena);
  for (const SessionLayout::Layer& layer : layout.layers()) {
    State& own = states_.emplace_back();
    for (base::Memory& memory : own.memory)
      memory = base::Memory::written(arena, layer.state_bytes, "a layer's recurrent state");
  }
}

void Session::reset() {
  position_ = 0;
  trim();
  for (size_t i = 0; i < states_.size(); ++i)
    states_[i].memory[committed_].clear(0, layout_.layers()[i].state_bytes);
}

uint64_t Session::growth_bytes(uint64_t n_tokens) const {
  uint64_t nbytes = 0;
  for (const KvCache& cache : caches_)
    nbytes += cache.growth_bytes(static_cast<uint32_t>(position_ + n_tokens));
  return nbytes;
}

void Session::grow(uint64_t n_tokens) {
  for (KvCache& cache : caches_) cache.grow(static_cast<uint32_t>(position_ + n_tokens));
}

void Session::trim() {
  for (KvCache& cache : caches_) cache.trim(position_);
}

ops::Segment Session::segment(size_t index, bool first) const {
  const SessionLayout::Layer& layer = layout_.layers()[index];
  const base::Memory& working = states_[index].memory[committed_ ^ 1];
  const base::Memory& from = first ? states_[index].memory[committed_] : working;
  ops::Segment segment;
  if (layer.block_bytes) {
    segment.cache = caches_[layer.cache].of_layer(layer.in_cache);
    segment.blocks = caches_[layer.cache].blocks_of_layer(layer.in_cache);
  }
  segment.state_in = from.as<float>();
  segment.state_out = working.as<float>();
  return segment;
}

void Session::commit(uint32_t n_tokens) {
  position_ += n_tokens;
  committed_ ^= 1;
  for (KvCache& cache : caches_) cache.commit(position_);
}

uint64_t Session::Snapshot::nbytes() const {
  uint64_t nbytes = states.nbytes();
  for (const KvCache::Held& cache : caches) nbytes += cache.nbytes();
  return nbytes;
}

std::vector<std::pair<const void*, uint64_t>> Session::Snapshot::extents() const {
  std::vector<std::pair<const void*, uint64_t>> extents;
  for (const KvCache::Held& cache : caches)
    for (const KvCache::Memory& extent : cache.full)
      extents.emplace_back(extent.get(), extent->nbytes());
  return extents;
}

uint64_t Session::snapshot_bytes() const {
  uint64_t nbytes = arena_.booked_bytes(layout_.states_bytes());
  for (const KvCache& cache : caches_) nbytes += cache.save_bytes(position_);
  return nbytes;
}

std::shared_ptr<Session::Snapshot> Session::save() const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->states = base::Memory(arena_, layout_.states_bytes(), "a snapshot");
  snapshot->positions = position_;
  for (const KvCache& cache : caches_) snapshot->caches.push_back(cache.save(position_));
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
  uint64_t nbytes = arena.booked_bytes(layout.states_bytes());
  for (const CacheLayout& cache : layout.caches()) nbytes += KvCache::blank_bytes(cache, positions);
  return nbytes;
}

std::shared_ptr<Session::Snapshot> Session::blank(const SessionLayout& layout, uint32_t positions,
                                                  base::Arena& arena) {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->states = base::Memory(arena, layout.states_bytes(), "a snapshot");
  snapshot->positions = positions;
  for (const CacheLayout& cache : layout.caches())
    snapshot->caches.push_back(KvCache::blank(cache, positions, arena));
  return snapshot;
}

uint64_t Session::tails_bytes(uint32_t positions) const {
  uint64_t nbytes = 0;
  for (const KvCache& cache : caches_) nbytes += cache.tail_bytes(positions);
  return nbytes;
}

std::vector<KvCache::Memory> Session::new_tails(uint32_t positions) const {
  std::vector<KvCache::Memory> tails;
  for (const KvCache& cache : caches_) tails.push_back(cache.new_tail(positions));
  return tails;
}

void Session::restore(const Snapshot& snapshot) {
  const std::vector<KvCache::Memory> tails = new_tails(snapshot.positions);
  for (size_t i = 0; i < caches_.size(); ++i) caches_[i].restore(snapshot.caches[i], tails[i]);
  const std::byte* in = snapshot.states.mapped();
  for (size_t i = 0; i < states_.size(); ++i) {
    const uint64_t nbytes = layout_.layers()[i].state_bytes;
    if (nbytes) std::memcpy(states_[i].memory[committed_].mapped(), in, nbytes);
    in += nbytes;
  }
  position_ = snapshot.positions;
}

uint64_t Session::fork_bytes() const {
  uint64_t nbytes = layout_.bytes(0);
  for (const KvCache& cache : caches_) nbytes += cache.fork_bytes(position_);
  return nbytes;
}

std::shared_ptr<Session> Session::fork() const {
  auto other = std::make_shared<Session>(weights_, layout_, arena_);
  const std::vector<KvCache::Memory> tails = other->new_tails(position_);
  for (size_t i = 0; i < caches_.size(); ++i)
    other->caches_[i].restore(caches_[i].hold(position_), tails[i]);
  for (size_t i = 0; i < states_.size(); ++i)
    if (const uint64_t nbytes = layout_.layers()[i].state_bytes)
      std::memcpy(other->states_[i].memory[0].mapped(), states_[i].memory[committed_].mapped(),
                  nbytes);
  other->position_ = position();
  return other;
}

uint32_t Session::least_tokens() const {
  if (layout_.states_bytes()) return position_;
  uint32_t least = 0;
  for (const KvCache& cache : caches_) least = std::max(least, cache.least());
  return least;
}

uint64_t Session::truncate_bytes(uint32_t n) const {
  if (n > position_)
    throw SessionError("[engine::Session] expected a number of tokens up to ", position(),
                       ", which the session holds, found ", n);
  if (n < position_ && layout_.states_bytes())
    throw SessionError(
        "[engine::Session] expected layers of attention alone, whose past is in the "
        "KV cache, found recurrent state: go back to a snapshot");
  if (n < least_tokens())
    throw SessionError("[engine::Session] expected a number of tokens from ", least_tokens(),
                       ", as far back as a sliding window is held, found ", n,
                       ": go back to a snapshot");
  return tails_bytes(n);
}

void Session::truncate(uint32_t n) {
  const std::vector<KvCache::Memory> tails = new_tails(n);
  for (size_t i = 0; i < caches_.size(); ++i) caches_[i].truncate(n, tails[i]);
  position_ = n;
}

}  // namespace moeflux::engine
