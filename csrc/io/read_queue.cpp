#include "io/read_queue.h"

#include <algorithm>

namespace moeflux::io {

namespace {
constexpr uint64_t kQueuedPerReader = 4;  // pieces: readers never starve, and the queue stays small
}  // namespace

ReadQueue::ReadQueue(base::Arena& arena, uint32_t n_threads)
    : n_threads_(n_threads),
      readers_(
          arena, n_threads, mutex_, [this](Piece& piece) REQUIRES(mutex_) { return take(piece); },
          [this](const Piece& piece, std::byte* bounce) { read(piece, bounce); }) {}

void ReadQueue::add(std::shared_ptr<File> file, uint64_t offset, std::span<std::byte> out,
                    Check check) {
  add(out.size(), 1,
      [file = std::move(file), offset, out, check = std::move(check)](
          uint64_t begin, uint64_t nbytes, std::byte* bounce) {
        const std::span<std::byte> piece = out.subspan(begin, nbytes);
        read_exact(*file, offset + begin, piece, bounce);
        if (check) check(piece);
      });
}

void ReadQueue::add(uint64_t nbytes, uint64_t unit, Read read) {
  const auto shared = std::make_shared<const Read>(std::move(read));
  for (uint64_t begin = 0; begin < nbytes; begin += piece_bytes(unit)) {
    base::Lock lock(mutex_);
    while (!error_ && queue_.size() >= n_threads_ * kQueuedPerReader) done_.wait(mutex_);
    if (error_) break;
    queue_.push_back({added_++, shared, begin, std::min(piece_bytes(unit), nbytes - begin)});
    readers_.wake();
  }
  bool failed;
  {
    base::Lock lock(mutex_);
    failed = error_ != nullptr;
  }
  if (failed) finish();
}

void ReadQueue::finish() {
  base::Lock lock(mutex_);
  while (!queue_.empty() || under_way_ > 0) done_.wait(mutex_);
  if (error_) std::rethrow_exception(error_);
}

bool ReadQueue::take(Piece& piece) {
  if (queue_.empty()) return false;
  piece = std::move(queue_.front());
  queue_.pop_front();
  ++under_way_;
  return true;
}

void ReadQueue::read(const Piece& piece, std::byte* bounce) {
  std::exception_ptr error;
  try {
    (*piece.read)(piece.begin, piece.nbytes, bounce);
  } catch (...) {
    error = std::current_exception();
  }
  {
    base::Lock lock(mutex_);
    if (error && piece.number < failed_) {  // whatever was added before it has begun, too
      failed_ = piece.number;
      error_ = error;
      queue_.clear();
    }
    error = nullptr;  // drops this thread's reference
    --under_way_;
  }
  done_.notify_all();
}

}  // namespace moeflux::io
