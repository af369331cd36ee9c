#include "base/memory.h"

#include <new>

namespace moeflux::base {

Memory::Memory(Arena& arena, uint64_t nbytes, const std::string& what) {
  if (nbytes == 0) return;
  const uint64_t booked = arena.booked_bytes(nbytes);
  if (booked < nbytes) throw std::bad_alloc();  // wrapped around
  booking_ = Booking(arena.account(), booked, what);
  data_ = arena.map(booked);
  arena_ = &arena;
}

Memory::~Memory() {
  if (data_ != nullptr) arena_->unmap(data_, nbytes());
}

}  // namespace moeflux::base
