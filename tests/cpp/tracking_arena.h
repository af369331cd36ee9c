// TrackingArena: an arena that looks addresses up as a device's arena does, and refuses when told.
// For tests only.
#pragma once
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "base/arena.h"

class TrackingArena final : public moeflux::base::Arena {
 public:
  struct Place {
    const std::byte* block = nullptr;  // null: in no block
    uint64_t offset = 0;
  };

  explicit TrackingArena(moeflux::base::Account& account, uint64_t granule_bytes = 16384)
      : Arena(account, granule_bytes) {}

  // The block that holds all of [data, data + nbytes).
  Place find(const void* data, uint64_t nbytes) const {
    const auto* address = static_cast<const std::byte*>(data);
    std::lock_guard lock(mutex_);
    auto it = blocks_.upper_bound(address);
    if (it == blocks_.begin()) return {};
    --it;
    const uint64_t offset = static_cast<uint64_t>(address - it->first);
    if (offset > it->second || nbytes > it->second - offset) return {};
    return {it->first, offset};
  }
  size_t n_blocks() const {
    std::lock_guard lock(mutex_);
    return blocks_.size();
  }
  void refuse(bool refuse) { left_ = refuse ? 0 : SIZE_MAX; }
  void refuse_after(size_t n_blocks) { left_ = n_blocks; }  // that it still gives

 private:
  std::byte* map(uint64_t nbytes) override {
    if (left_ == 0) throw std::bad_alloc();
    if (left_ != SIZE_MAX) --left_;
    auto* data = static_cast<std::byte*>(
        ::operator new(nbytes, std::align_val_t(moeflux::base::kPageBytes)));
    std::memset(data, 0, nbytes);
    std::lock_guard lock(mutex_);
    blocks_[data] = nbytes;
    return data;
  }
  void unmap(std::byte* data, uint64_t) noexcept override {
    {
      std::lock_guard lock(mutex_);
      blocks_.erase(data);
    }
    ::operator delete(data, std::align_val_t(moeflux::base::kPageBytes));
  }

  mutable std::mutex mutex_;
  std::map<const std::byte*, uint64_t> blocks_;  // guarded by mutex_: bytes by address
  size_t left_ = SIZE_MAX;
};
