// Staging: small lists (tokens, rows, places of outputs) that a stage was handed and a command
// buffer reads later, copied into a ring of shared memory. A list's room is free again when the
// command buffer that reads it has completed. Where the ring is full, put() waits for the oldest
// one. One thread.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "base/memory.h"
#include "device/device.h"

namespace moeflux::ops::gpu {

// Whatever becomes of it: what went wrong is for its ticket to tell.
void wait_for_end(device::Commands& commands);

class Staging {
 public:
  Staging() = default;
  // words: of all lists that are read by command buffers under way at one time, with `capacity`
  // able to hold those of one recording twice, since a list is never cut at the end of the ring.
  Staging(base::Arena& arena, uint64_t capacity)
      : memory_(arena, capacity * sizeof(uint32_t), "lists for the device"), capacity_(capacity) {}

  // Until the command buffer that is being recorded has completed. Throws Error when a recording
  // needs more than reserve() was told of.
  const uint32_t* put(std::span<const uint32_t> list);
  // All lists since the last call are read by `commands`, which `commit` commits. Nothing fails
  // behind that; what it throws leaves the lists as they were.
  template <class Commit>
  void submit(std::shared_ptr<device::Commands> commands, Commit commit) {
    release();
    flights_.push_back({std::move(commands), end_});
    try {
      commit();
    } catch (...) {
      flights_.pop_back();
      throw;
    }
    begin_of_recording_ = end_;
  }
  void abandon() { end_ = begin_of_recording_; }  // of lists that nobody will read

 private:
  struct Flight {
    std::shared_ptr<device::Commands> commands;
    uint64_t end;  // of its lists
  };
  void release();  // the lists of completed command buffers

  base::Memory memory_;
  uint64_t capacity_ = 0;
  // Words since the ring was made; the place of a word is its number modulo the capacity.
  uint64_t begin_ = 0, begin_of_recording_ = 0, end_ = 0;
  std::deque<Flight> flights_;
};

}  // namespace moeflux::ops::gpu
