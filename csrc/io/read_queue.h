// ReadQueue: reads of a load, several at a time, cut into pieces, in whatever order they end. One
// thread adds; errors come out of finish(). The destructor drops what has not begun.
#pragma once
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "io/readers.h"

namespace moeflux::io {

class ReadQueue {
 public:
  // Called by a reader on each piece that has arrived, a whole number of words of 8 bytes into the
  // read; what it throws counts as the read's error.
  using Check = std::function<void(std::span<const std::byte> piece)>;

  // Throws MemoryBudgetError.
  ReadQueue(base::Arena& arena, uint32_t n_threads);
  // What a queue books for as long as it lives.
  static uint64_t bytes(const base::Arena& arena, uint32_t n_threads) {
    return Readers<Piece>::bytes(arena, n_threads);
  }

  // Of bytes [begin, begin + nbytes) of what was added, by a reader with its buffer.
  using Read = std::function<void(uint64_t begin, uint64_t nbytes, std::byte* bounce)>;

  // Runs `read` on all of `nbytes`, in pieces of whole units. Waits and throws as the next one.
  void add(uint64_t nbytes, uint64_t unit, Read read);
  // Reads out.size() bytes from `offset`. Waits while many pieces are under way; after an error it
  // is finish(). REQUIRES: out stays until finish() or the destructor.
  void add(std::shared_ptr<File> file, uint64_t offset, std::span<std::byte> out, Check check = {});
  // Returns when everything is there. Throws the error of the piece that was added first, with the
  // rest dropped.
  void finish();

 private:
  struct Piece {
    uint64_t number;  // in order of add()
    std::shared_ptr<const Read> read;
    uint64_t begin, nbytes;
  };
  bool take(Piece& piece) REQUIRES(mutex_);
  void read(const Piece& piece, std::byte* bounce);

  const uint32_t n_threads_;
  base::Mutex mutex_;
  base::Condition done_;  // for the thread that adds
  std::deque<Piece> queue_ GUARDED_BY(mutex_);
  uint64_t added_ GUARDED_BY(mutex_) = 0, under_way_ GUARDED_BY(mutex_) = 0;
  uint64_t failed_ GUARDED_BY(mutex_) = UINT64_MAX;  // number of the first piece that failed
  std::exception_ptr error_ GUARDED_BY(mutex_);      // its error
  Readers<Piece> readers_;                           // last: joined first
};

}  // namespace moeflux::io
