#include "base/account.h"

#include <algorithm>

#include "base/error.h"

namespace moeflux::base {

bool Account::try_reserve(uint64_t nbytes) {
  Lock lock(mutex_);
  if (nbytes > limit_bytes_ - live_bytes_) return false;
  live_bytes_ += nbytes;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return true;
}

void Account::reserve(uint64_t nbytes, const std::string& what) {
  if (!try_reserve(nbytes)) refuse(nbytes, what, 0);
}

void Account::refuse(uint64_t nbytes, const std::string& what, uint64_t spare_bytes) const {
  const uint64_t kept = live_bytes() - spare_bytes, limit = limit_bytes();
  throw MemoryBudgetError("[base::Account] no room for ", what, ": it takes ", nbytes, " bytes, ",
                          limit - kept, " of ", limit, " can be had; memory=", kept + nbytes,
                          " would do");
}

void Account::release(uint64_t nbytes) {
  Lock lock(mutex_);
  live_bytes_ -= nbytes;
}

bool Account::try_set_limit(uint64_t nbytes) {
  Lock lock(mutex_);
  if (nbytes < live_bytes_) return false;
  limit_bytes_ = nbytes;
  return true;
}

uint64_t Account::limit_bytes() const {
  Lock lock(mutex_);
  return limit_bytes_;
}
uint64_t Account::live_bytes() const {
  Lock lock(mutex_);
  return live_bytes_;
}
uint64_t Account::peak_bytes() const {
  Lock lock(mutex_);
  return peak_bytes_;
}
uint64_t Account::free_bytes() const {
  Lock lock(mutex_);
  return limit_bytes_ - live_bytes_;
}

}  // namespace moeflux::base
