// Memory: a zero-filled block of an Arena, booked in its Account for as long as it lives. Pages are
// touched on first use; the account counts them from the start.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

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

  std::byte* data() const { return data_; }
  uint64_t nbytes() const { return booking_.nbytes(); }  // as booked: whole granules
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
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
