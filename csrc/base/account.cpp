#include "base/account.h"

#include <algorithm>

#include "base/error.h"

namespace moeflux::base {

bool Account::try_reserve(uint64_t nbytes) {
  std::lock_guard lock(mutex_);
  if (nbytes > limit_bytes_ - live_bytes_) return false;
  live_bytes_ += nbytes;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return true;
}

void Account::reserve(uint64_t nbytes, const std::string& what) {
  if (try_reserve(nbytes)) return;
  throw MemoryBudgetError(
      "[base::Account] no room for " + what + ": it takes " + std::to_string(nbytes) + " bytes, " +
      std::to_string(free_bytes()) + " of " + std::to_string(limit_bytes_) +
      " are free; memory=" + std::to_string(live_bytes() + nbytes) + " would do");
}

void Account::release(uint64_t nbytes) {
  std::lock_guard lock(mutex_);
  live_bytes_ -= nbytes;
}

uint64_t Account::live_bytes() const {
  std::lock_guard lock(mutex_);
  return live_bytes_;
}
uint64_t Account::peak_bytes() const {
  std::lock_guard lock(mutex_);
  return peak_bytes_;
}
uint64_t Account::free_bytes() const {
  std::lock_guard lock(mutex_);
  return limit_bytes_ - live_bytes_;
}

}  // namespace moeflux::base
