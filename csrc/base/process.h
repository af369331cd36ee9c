// Process: the process that an object was made in. A forked child has a copy of its parent's
// memory, but none of its other threads, and locks as they were held at the fork: what owns threads
// or locks can be neither used nor destroyed there.
#pragma once
#include <unistd.h>

namespace moeflux::base {

class Process {
 public:
  bool is_current() const { return pid_ == getpid(); }

 private:
  pid_t pid_ = getpid();
};

}  // namespace moeflux::base
