#include "device/host/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/memory.h"
#include "device/host/sanitizers.h"

namespace moeflux::device::host {

namespace {
constexpr uint64_t kCanaryBytes = 64;
constexpr auto kCanary = std::byte{0xca};

// One mapping: [.. canary][data][canary ..], data on a page boundary.
class Mapping {
 public:
  explicit Mapping(uint64_t nbytes)
      : nbytes_(base::kPageBytes + base::round_up(nbytes + kCanaryBytes, base::kPageBytes)) {
    void* memory =
        mmap(nullptr, nbytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      throw GpuError("[host::Buffer] no memory for a buffer of " + std::to_string(nbytes) +
                     " bytes");
    start_ = static_cast<std::byte*>(memory);
  }
  ~Mapping() {
    asan_allow(start_, nbytes_);
    munmap(start_, nbytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return start_ + base::kPageBytes; }

 private:
  std::byte* start_ = nullptr;
  uint64_t nbytes_;
};

class OwnedBuffer : private Mapping, public HostBuffer {
 public:
  OwnedBuffer(std::shared_ptr<const void> owner, uint64_t nbytes)
      : Mapping(nbytes), HostBuffer(std::move(owner), data(), nbytes) {
    for (std::byte* zone : {front(), back()}) {
      std::fill_n(zone, kCanaryBytes, kCanary);
      asan_forbid(zone, kCanaryBytes);
    }
  }

  bool intact() const override {
    if (kAsan) return true;  // address sanitizer has reported it at the access
    const auto whole = [](const std::byte* zone) {
      return std::all_of(zone, zone + kCanaryBytes, [](std::byte b) { return b == kCanary; });
    };
    return whole(front()) && whole(back());
  }

 private:
  std::byte* front() const { return data() - kCanaryBytes; }
  std::byte* back() const { return data() + nbytes(); }
};

class WrappedBuffer : public HostBuffer {
 public:
  WrappedBuffer(std::shared_ptr<const void> owner, std::byte* data, uint64_t nbytes,
                std::function<void()> on_free)
      : HostBuffer(std::move(owner), data, nbytes), on_free_(std::move(on_free)) {}
  ~WrappedBuffer() override {
    if (on_free_) on_free_();
  }

 private:
  std::function<void()> on_free_;
};
}  // namespace

std::shared_ptr<HostBuffer> allocate(std::shared_ptr<const void> owner, uint64_t nbytes) {
  return std::make_shared<OwnedBuffer>(std::move(owner), nbytes);
}

std::shared_ptr<HostBuffer> wrap(std::shared_ptr<const void> owner, std::byte* data,
                                 uint64_t nbytes, std::function<void()> on_free) {
  return std::make_shared<WrappedBuffer>(std::move(owner), data, nbytes, std::move(on_free));
}

}  // namespace moeflux::device::host
