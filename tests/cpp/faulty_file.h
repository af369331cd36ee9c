// FaultyFile: an io::File over bytes that misbehaves as told. For tests only.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "memory_file.h"

class FaultyFile final : public moeflux::io::File {
 public:
  struct Faults {
    bool short_reads = false;  // at most a third of what is asked, at least one unit
    int delay_us = 0;          // a read
    int64_t fail_from = -1;    // this read and the next `fail_count - 1` raise IoError
    int64_t fail_count = 0;
    int64_t fail_every = 0;     // one read in so many raises IoError, too; 0: none
    bool gated = false;         // a read waits for allow()
    uint64_t pretend_size = 0;  // 0: the true one; larger: the file shrank after opening
    bool log = false;           // remember the offset of every read
  };

  FaultyFile(std::vector<std::byte> bytes, Faults faults, size_t alignment = 1)
      : size_(faults.pretend_size ? faults.pretend_size : bytes.size()),
        file_(moeflux::io::open_memory(std::move(bytes), "faulty", alignment)),
        faults_(faults) {}

  size_t read_at(uint64_t offset, std::span<std::byte> out) override {
    const int64_t read = reads_++;
    {
      std::unique_lock lock(mutex_);
      if (faults_.log) offsets_.push_back(offset);
      changed_.notify_all();
      changed_.wait(lock, [&] { return !faults_.gated || read < allowed_; });
    }
    if (faults_.delay_us) std::this_thread::sleep_for(std::chrono::microseconds(faults_.delay_us));
    const bool in_range = faults_.fail_from >= 0 && read >= faults_.fail_from &&
                          read < faults_.fail_from + faults_.fail_count;
    if (in_range || (faults_.fail_every && read % faults_.fail_every == faults_.fail_every - 1))
      throw moeflux::IoError("[test] Input/output error (faulty)");
    size_t n = out.size();
    if (faults_.short_reads) n = std::max(alignment(), n / 3 / alignment() * alignment());
    return file_->read_at(offset, out.first(std::min(n, out.size())));
  }
  uint64_t size() const override { return size_; }
  size_t alignment() const override { return file_->alignment(); }
  const std::string& path() const override { return file_->path(); }
  int64_t reads() const { return reads_; }
  void allow(int64_t n) {  // the first n reads of all go on
    std::lock_guard lock(mutex_);
    allowed_ = n;
    changed_.notify_all();
  }
  void wait_started(int64_t n) {  // until n reads have begun
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reads_ >= n; });
  }
  std::vector<uint64_t> offsets() const {  // of reads, in the order in which they began
    std::lock_guard lock(mutex_);
    return offsets_;
  }

 private:
  uint64_t size_;
  std::shared_ptr<moeflux::io::File> file_;
  Faults faults_;
  std::atomic<int64_t> reads_{0};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t allowed_ = 0;            // guarded by mutex_
  std::vector<uint64_t> offsets_;  // guarded by mutex_
};

inline std::vector<std::byte> noise(size_t n, uint32_t seed = 1) {
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) {
    seed = seed * 1664525u + 1013904223u;
    b = std::byte(seed >> 24);
  }
  return bytes;
}
