#include "base/memory.h"

#include <sys/mman.h>

#include <new>

namespace moeflux::base {

Memory::Memory(Account& account, uint64_t nbytes, const std::string& what) {
  if (nbytes == 0) return;
  if (nbytes > UINT64_MAX - kPageBytes) throw std::bad_alloc();
  const uint64_t booked = round_up(nbytes, kPageBytes);
  account.reserve(booked, what);
  void* data = mmap(nullptr, booked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    account.release(booked);
    throw std::bad_alloc();
  }
  account_ = &account;
  data_ = static_cast<std::byte*>(data);
  nbytes_ = booked;
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  munmap(data_, nbytes_);
  account_->release(nbytes_);
}

}  // namespace moeflux::base
