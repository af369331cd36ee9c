#include "base/memory.h"

#include <new>

#include "base/error.h"

namespace moeflux::base {

Memory::Memory(Arena& arena, uint64_t nbytes, const std::string& what) {
  if (nbytes == 0) return;
  const uint64_t booked = arena.booked_bytes(nbytes);
  if (booked < nbytes) throw std::bad_alloc();  // wrapped around
  booking_ = Booking(arena.account(), booked, what);
  try {
    data_ = arena.map(booked);
  } catch (const std::bad_alloc&) {
    throw MemoryBudgetError("[base::Memory] no room for ", what, ": the system refuses its ",
                            booked, " bytes, though the budget has them");
  }
  arena_ = &arena;
}

Memory::~Memory() {
  if (data_ != nullptr) arena_->unmap(data_, nbytes());
}

}  // namespace moeflux::base
