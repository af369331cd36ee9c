#include "base/arena.h"

#include <sys/mman.h>

#include <new>

namespace moeflux::base {

std::byte* HeapArena::map(uint64_t nbytes) {
  void* data = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // A token streams through gigabytes: with pages of 4 KiB, walks of the page table cost a third of
  // the memory's rate (benchmarks/notebook.md). A wish; where it is not granted nothing else
  // changes.
  madvise(data, nbytes, MADV_HUGEPAGE);
#endif
  return static_cast<std::byte*>(data);
}

void HeapArena::unmap(std::byte* data, uint64_t nbytes) noexcept {
  munmap(data, nbytes);
}

}  // namespace moeflux::base
