#include <fcntl.h>
#include <unistd.h>

#include "io/open_direct.h"

namespace moeflux::io {

// F_NOCACHE takes reads of any alignment, but copies those through the cache that are not whole
// blocks.
DirectFile open_direct(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags);
  if (fd < 0) return {};
  if (fcntl(fd, F_NOCACHE, 1) == 0) return {fd, kDirectAlignment};
  close(fd);
  return {};
}

}  // namespace moeflux::io
