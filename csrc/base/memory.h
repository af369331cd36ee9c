// Memory: a page-aligned, zero-filled block that is booked in an Account for as long as it lives.
// Pages are touched on first use; the account counts them from the start.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/account.h"

namespace moeflux::base {

inline constexpr uint64_t kPageBytes = 4096;  // x86-64 and arm64 Linux; a macOS page is a multiple

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

class Memory {
 public:
  Memory() = default;
  // Throws MemoryBudgetError (account) or std::bad_alloc (operating system).
  Memory(Account& account, uint64_t nbytes, const std::string& what);
  ~Memory();
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    Memory(std::move(other)).swap(*this);
    return *this;
  }

  std::byte* data() const { return data_; }
  uint64_t nbytes() const { return nbytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void swap(Memory& other) noexcept {
    std::swap(account_, other.account_);
    std::swap(data_, other.data_);
    std::swap(nbytes_, other.nbytes_);
  }

  Account* account_ = nullptr;
  std::byte* data_ = nullptr;
  uint64_t nbytes_ = 0;  // as booked: whole pages
};

}  // namespace moeflux::base
