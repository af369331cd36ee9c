// Memory of the host device. A buffer that the device allocates lies between canaries, which are
// looked at after each dispatch that may have written to it.
#pragma once
#include <functional>
#include <memory>

#include "device/device.h"

namespace moeflux::device::host {

class HostBuffer : public Buffer {
 public:
  // `owner`: an object of the device that this buffer belongs to; compared by address.
  HostBuffer(std::shared_ptr<const void> owner, std::byte* data, uint64_t nbytes)
      : owner_(std::move(owner)), data_(data), nbytes_(nbytes) {}
  std::byte* contents() const override { return data_; }
  uint64_t nbytes() const override { return nbytes_; }
  uint64_t address() const override { return reinterpret_cast<uintptr_t>(data_); }
  const void* owner() const { return owner_.get(); }
  // False when something wrote just before or behind the buffer.
  virtual bool intact() const { return true; }

 private:
  std::shared_ptr<const void> owner_;
  std::byte* data_;
  uint64_t nbytes_;
};

// Zero-filled, on a page boundary. `guard_pages`: inaccessible memory on both sides instead, the
// end of the buffer (rounded up to 16 bytes) directly before it. Throws GpuError when the system
// has no memory.
std::shared_ptr<HostBuffer> allocate(std::shared_ptr<const void> owner, uint64_t nbytes,
                                     bool guard_pages);
// Over memory of the caller's; `on_free` is called at the end.
std::shared_ptr<HostBuffer> wrap(std::shared_ptr<const void> owner, std::byte* data,
                                 uint64_t nbytes, std::function<void()> on_free);

}  // namespace moeflux::device::host
