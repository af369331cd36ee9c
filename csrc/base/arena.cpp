#include "base/arena.h"

#include <sys/mman.h>

#include <new>

namespace moeflux::base {

std::byte* HeapArena::map(uint64_t nbytes) {
  void* data = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(data);
}

void HeapArena::unmap(std::byte* data, uint64_t nbytes) noexcept {
  munmap(data, nbytes);
}

}  // namespace moeflux::base
