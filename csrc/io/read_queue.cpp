#include "io/read_queue.h"

#include <algorithm>

namespace moeflux::io {

namespace {
constexpr uint64_t kQueuedPerReader = 4;  // pieces: readers never starve, and the queue stays small
}  // namespace

ReadQueue::ReadQueue(base::Arena& arena, uint32_t n_threads)
    : n_threads_(n_threads),
      bounce_(arena, n_threads * kBounceBytes, "read buffers"),
      stacks_(arena.account(), n_threads * base::kStackBytes, "reader stacks") {
  base::start(
      readers_, n_threads, "a reader",
      [this](uint32_t index) { reader(bounce_.data() + index * kBounceBytes); },
      [this] { stop(); });
}

ReadQueue::~ReadQueue() {
  stop();
}

uint64_t ReadQueue::bytes(const base::Arena& arena, uint32_t n_threads) {
  return arena.booked_bytes(n_threads * kBounceBytes) + n_threads * base::kStackBytes;
}

void ReadQueue::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  readers_.clear();
}

void ReadQueue::add(std::shared_ptr<File> file, uint64_t offset, std::span<std::byte> out,
                    Check check) {
  const auto shared = check ? std::make_shared<const Check>(std::move(check)) : nullptr;
  for (uint64_t begin = 0; begin < out.size(); begin += kPieceBytes) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return error_ || queue_.size() < n_threads_ * kQueuedPerReader; });
    if (error_) break;
    const uint64_t nbytes = std::min<uint64_t>(kPieceBytes, out.size() - begin);
    queue_.push_back({added_++, file, offset + begin, out.subspan(begin, nbytes), shared});
    work_.notify_one();
  }
  bool failed;
  {
    std::lock_guard lock(mutex_);
    failed = error_ != nullptr;
  }
  if (failed) finish();
}

void ReadQueue::finish() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return queue_.empty() && under_way_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

void ReadQueue::reader(std::byte* bounce) {
  for (;;) {
    Piece piece;
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      piece = std::move(queue_.front());
      queue_.pop_front();
      ++under_way_;
    }
    std::exception_ptr error;
    try {
      read_exact(*piece.file, piece.offset, piece.out, bounce);
      if (piece.check) (*piece.check)(piece.out);
    } catch (...) {
      error = std::current_exception();
    }
    {
      std::lock_guard lock(mutex_);
      if (error && piece.number < failed_) {  // whatever was added before it has begun, too
        failed_ = piece.number;
        error_ = error;
        queue_.clear();
      }
      error = nullptr;  // no share of it stays with this thread
      --under_way_;
    }
    done_.notify_all();
  }
}

}  // namespace moeflux::io
