// The one accountant of a model: every byte that it makes the process hold is reserved here
// first, so that live_bytes() <= limit_bytes() always. Thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/mutex.h"

namespace moeflux::base {

class Account {
 public:
  explicit Account(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // False, and nothing changed, when it would pass the limit.
  bool try_reserve(uint64_t nbytes);
  // Throws MemoryBudgetError that names `what` and the limit it would take.
  void reserve(uint64_t nbytes, const std::string& what);
  // Throws that error. `spare_bytes` of those booked would not be, where there is just the limit
  // that it names.
  [[noreturn]] void refuse(uint64_t nbytes, const std::string& what, uint64_t spare_bytes) const;
  void release(uint64_t nbytes);
  // False, and nothing changed, when more is booked.
  bool try_set_limit(uint64_t nbytes);

  uint64_t limit_bytes() const;
  uint64_t live_bytes() const;
  uint64_t peak_bytes() const;
  uint64_t free_bytes() const;

 private:
  mutable Mutex mutex_;
  uint64_t limit_bytes_ GUARDED_BY(mutex_);
  uint64_t live_bytes_ GUARDED_BY(mutex_) = 0;  // <= limit_bytes_
  uint64_t peak_bytes_ GUARDED_BY(mutex_) = 0;
};

// A reservation for as long as this object lives. The account must outlive it.
class Booking {
 public:
  Booking() = default;
  // Throws MemoryBudgetError.
  Booking(Account& account, uint64_t nbytes, const std::string& what)
      : account_(&account), nbytes_(nbytes) {
    account.reserve(nbytes, what);
  }
  ~Booking() {
    if (account_ != nullptr) account_->release(nbytes_);
  }
  Booking(Booking&& other) noexcept { swap(other); }
  Booking& operator=(Booking&& other) noexcept {
    Booking(std::move(other)).swap(*this);
    return *this;
  }
  uint64_t nbytes() const { return nbytes_; }

 private:
  void swap(Booking& other) noexcept {
    std::swap(account_, other.account_);
    std::swap(nbytes_, other.nbytes_);
  }

  Account* account_ = nullptr;
  uint64_t nbytes_ = 0;
};

}  // namespace moeflux::base
