#include "engine/kv_cache.h"

#include <cstring>

namespace moeflux::engine {

CacheMemory::CacheMemory(const CacheLayout& layout, uint32_t n_blocks, base::Arena& arena,
                         const std::string& what)
    : layout_(layout), n_blocks_(n_blocks) {
  for (const uint64_t part : layout.parts(n_blocks))
    parts_.push_back(base::Memory::written(arena, part, what));
}

ops::CacheExtent CacheMemory::of_layer(size_t index) const {
  if (layout_.apart()) return {parts_[2 * index].data(), parts_[2 * index + 1].data()};
  const CacheLayout::Layer& layer = layout_.layers()[index];
  std::byte* keys = parts_[0].data() + n_blocks_ * layer.begin;
  return {keys, keys + n_blocks_ * layer.block_bytes};
}

void CacheMemory::copy(const CacheMemory& from, uint32_t n_blocks) {
  for (size_t i = 0; i < layout_.layers().size(); ++i) {
    const uint64_t nbytes = n_blocks * layout_.layers()[i].block_bytes;
    if (nbytes == 0) continue;
    const ops::CacheExtent to = of_layer(i), source = from.of_layer(i);
    std::memcpy(to.keys, source.keys, nbytes);
    std::memcpy(to.values, source.values, nbytes);
  }
}

uint64_t CacheMemory::nbytes() const {
  uint64_t nbytes = 0;
  for (const base::Memory& part : parts_) nbytes += part.nbytes();
  return nbytes;
}

std::vector<std::span<std::byte>> CacheMemory::spans() const {
  const std::vector<uint64_t> sizes = layout_.parts(n_blocks_);
  std::vector<std::span<std::byte>> spans;
  for (size_t i = 0; i < sizes.size(); ++i) spans.emplace_back(parts_[i].mapped(), sizes[i]);
  return spans;
}

KvCache::KvCache(const CacheLayout& layout, base::Arena& arena)
    : layout_(layout),
      arena_(arena),
      table_(arena, layout.table_bytes(), "the table of a KV cache") {
  extents_.reserve(layout.most_extents());
}

KvCache::Memory KvCache::make(size_t index) const {
  return std::make_shared<CacheMemory>(layout_, layout_.n_blocks(static_cast<uint32_t>(index)),
                                       arena_, "the KV cache");
}

void KvCache::set(size_t index, Memory memory) {
  lists_.clear();  // before what they list
  const Memory& extent = extents_[index] = std::move(memory);
  for (size_t i = 0; i < layout_.layers().size(); ++i) {
    const ops::CacheExtent place = extent ? extent->of_layer(i) : ops::CacheExtent{};
    table_.write(i * layout_.most_extents() + index, std::span(&place, 1));
  }
}

void KvCache::add(Memory extent) {
  extents_.emplace_back();
  set(extents_.size() - 1, std::move(extent));
}

void KvCache::pop() {
  lists_.clear();
  extents_.pop_back();
}

std::shared_ptr<const base::BlockList> KvCache::blocks_of_layer(size_t index) const {
  lists_.resize(layout_.apart() ? layout_.layers().size() : 1);
  auto& list = lists_[layout_.apart() ? index : 0];
  if (!list) {
    std::vector<const std::byte*> pointers;
    for (const Memory& extent : extents_) {
      const ops::CacheExtent place = extent ? extent->of_layer(index) : ops::CacheExtent{};
      pointers.insert(pointers.end(), {place.keys, place.values});
    }
    list = arena_.list_blocks(pointers);
  }
  return *list;
}

uint64_t KvCache::growth_bytes(uint32_t positions) const {
  const auto begin = static_cast<uint32_t>(extents_.size());
  const uint32_t end = std::max(begin, layout_.n_extents(positions));
  uint64_t nbytes = 0;
  for (uint32_t i = begin; i < end && i - begin < layout_.turn(); ++i)
    nbytes += layout_.extent_bytes(layout_.n_blocks(i));
  return nbytes;
}

void KvCache::grow(uint32_t positions) {
  const size_t begin = extents_.size(), turn = layout_.turn();
  for (size_t i = begin; i < layout_.n_extents(positions); ++i)
    add(i - begin < turn ? make(i) : extents_[i - turn]);
}

void KvCache::trim(uint32_t positions) {
  while (extents_.size() > layout_.n_extents(positions)) pop();
  if (extents_.empty()) first_ = 0;
}

void KvCache::commit(uint32_t positions) {
  for (; first_ < layout_.first_held(positions); ++first_) set(first_, nullptr);
}

uint64_t KvCache::save_bytes(uint32_t positions) const {
  return layout_.extent_bytes(layout_.tail_blocks(positions));
}

uint64_t KvCache::whole_tail_bytes(uint32_t positions) const {
  if (layout_.tail_blocks(positions) == 0) return 0;
  return layout_.extent_bytes(layout_.n_blocks(positions / layout_.extent()));
}

KvCache::Held KvCache::hold(uint32_t positions) const {
  Held held;
  held.positions = positions;
  const uint32_t n_full = positions / layout_.extent();
  held.full.assign(extents_.begin() + layout_.first_seen(positions), extents_.begin() + n_full);
  if (layout_.tail_blocks(positions)) held.tail = extents_[n_full];
  return held;
}

KvCache::Held KvCache::save(uint32_t positions) const {
  Held held = hold(positions);
  if (held.tail == nullptr) return held;
  const uint32_t n_blocks = layout_.tail_blocks(positions);
  const auto tail = std::make_shared<CacheMemory>(layout_, n_blocks, arena_, "a snapshot");
  tail->copy(*held.tail, n_blocks);
  held.tail = tail;
  return held;
}

uint64_t KvCache::blank_bytes(const CacheLayout& layout, uint32_t positions) {
  uint64_t nbytes = layout.extent_bytes(layout.tail_blocks(positions));
  for (uint32_t i = layout.first_seen(positions); i < positions / layout.extent(); ++i)
    nbytes += layout.extent_bytes(layout.n_blocks(i));
  return nbytes;
}

KvCache::Held KvCache::blank(const CacheLayout& layout, uint32_t positions, base::Arena& arena) {
  Held held;
  held.positions = positions;
  for (uint32_t i = layout.first_seen(positions); i < positions / layout.extent(); ++i)
    held.full.push_back(
        std::make_shared<CacheMemory>(layout, layout.n_blocks(i), arena, "a snapshot"));
  if (const uint32_t n_blocks = layout.tail_blocks(positions))
    held.tail = std::make_shared<CacheMemory>(layout, n_blocks, arena, "a snapshot");
  return held;
}

KvCache::Memory KvCache::new_tail(uint32_t positions) const {
  if (layout_.tail_blocks(positions) == 0 || owns_tail(positions)) return nullptr;
  return make(positions / layout_.extent());
}

void KvCache::restore(const Held& held, Memory tail) noexcept {
  const uint32_t index = held.positions / layout_.extent();
  if (held.tail) {
    if (tail == nullptr) tail = extents_[index];
    tail->copy(*held.tail, layout_.tail_blocks(held.positions));
  }
  lists_.clear();
  extents_.clear();
  first_ = layout_.first_seen(held.positions);
  for (uint32_t i = 0; i < first_; ++i) add(nullptr);
  for (const Memory& extent : held.full) add(extent);
  if (tail) add(std::move(tail));
}

void KvCache::truncate(uint32_t positions, Memory tail) noexcept {
  if (tail) tail->copy(*extents_[positions / layout_.extent()], layout_.tail_blocks(positions));
  trim(positions);
  if (tail == nullptr) return;
  pop();
  add(std::move(tail));
}

}  // namespace moeflux::engine
