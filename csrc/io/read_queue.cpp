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
  const auto shared = check ? std::make_shared<const Check>(std::move(check)) : nullptr;
  for (uint64_t begin = 0; begin < out.size(); begin += kPieceBytes) {
    base::Lock lock(mutex_);
    while (!error_ && queue_.size() >= n_threads_ * kQueuedPerReader) done_.wait(mutex_);
    if (error_) break;
    const uint64_t nbytes = std::min<uint64_t>(kPieceBytes, out.size() - begin);
    queue_.push_back({added_++, file, offset + begin, out.subspan(begin, nbytes), shared});
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
    read_exact(*piece.file, piece.offset, piece.out, bounce);
    if (piece.check) (*piece.check)(piece.out);
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
