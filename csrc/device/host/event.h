// Event of the host device: raised and read, never waited for (runner.cpp says why).
#pragma once
#include <atomic>

#include "device/device.h"

namespace moeflux::device::host {

class HostEvent : public Event {
 public:
  uint64_t value() const override { return value_.load(std::memory_order_acquire); }
  void raise(uint64_t value) { value_.store(value, std::memory_order_release); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

}  // namespace moeflux::device::host
