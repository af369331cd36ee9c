#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "io/open_direct.h"

namespace moeflux::io {

namespace {
// Asked of the kernel where it tells (6.1); 1 where this file refuses direct reads.
size_t alignment_of([[maybe_unused]] int fd) {
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) return 1;
    return std::max<size_t>({info.stx_dio_offset_align, info.stx_dio_mem_align, 512});
  }
#endif
  return kDirectAlignment;
}
}  // namespace

DirectFile open_direct(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_DIRECT);
  if (fd < 0) return {};
  const size_t alignment = usable_alignment(alignment_of(fd));
  if (alignment > 1) return {fd, alignment};
  close(fd);
  return {};
}

}  // namespace moeflux::io
