// What a disk delivers to reads like those of the expert store: whole records at random places,
// several in flight. For `moeflux doctor`.
#pragma once
#include <cstdint>

#include "io/file.h"

namespace moeflux::io {

struct ReadRate {
  uint64_t bytes = 0;
  double seconds = 0;  // until the last read that had begun in time came back
};

// Reads records of `record_bytes` for about `seconds` on `n_threads` threads, through direct
// reads where the file is open for them. Throws IoError; FormatError when the file is smaller than
// one record or a number is 0.
ReadRate measure_reads(File& file, uint64_t record_bytes, int n_threads, double seconds);

}  // namespace moeflux::io
