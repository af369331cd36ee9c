// Memory: a zero-filled block of an Arena, booked in its Account for as long as it lives. Pages are
// touched on first use; the account counts them from the start.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/arena.h"

namespace moeflux::base {

class Memory {
 public:
  Memory() = default;
  // Throws MemoryBudgetError (no room in the account or the system), or what the arena throws.
  // REQUIRES: the arena outlives it.
  Memory(Arena& arena, uint64_t nbytes, const std::string& what);
  // A block that compute writes. Throws, beside that, what Arena::check_written does.
  static Memory written(Arena& arena, uint64_t nbytes, const std::string& what) {
    arena.check_written(nbytes, what);
    return Memory(arena, nbytes, what);
  }
  ~Memory();
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    Memory(std::move(other)).swap(*this);
    return *this;
  }

  uint64_t nbytes() const { return booking_.nbytes(); }  // as booked: whole granules
  // The address by which compute knows the block. Others hand it to ops and do not look behind it.
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

  // How the CPU reads and writes what compute owns, from element `begin` on. REQUIRES: no stage that
  // touches the elements is under way.
  template <class T>
  void read(uint64_t begin, std::span<T> to) const {
    if (!to.empty()) std::memcpy(to.data(), mapped<T>() + begin, to.size_bytes());
  }
  template <class T>
  std::vector<T> read(uint64_t begin, uint64_t count) const {
    std::vector<T> values(count);
    read(begin, std::span(values));
    return values;
  }
  template <class T>
  void write(uint64_t begin, std::span<const T> from) const {
    if (!from.empty()) std::memcpy(mapped<T>() + begin, from.data(), from.size_bytes());
  }
  void clear(uint64_t begin, uint64_t nbytes) const {
    if (nbytes != 0) std::memset(mapped() + begin, 0, nbytes);
  }
  // The block itself, for what is too large to copy: bytes of files, logits, states of sessions.
  // Every arena maps its blocks: they are pages of this process, or buffers that a device shares.
  template <class T = std::byte>
  T* mapped() const {
    return as<T>();
  }

 private:
  void swap(Memory& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(data_, other.data_);
    std::swap(booking_, other.booking_);
  }

  Arena* arena_ = nullptr;
  std::byte* data_ = nullptr;
  Booking booking_;
};

}  // namespace moeflux::base
