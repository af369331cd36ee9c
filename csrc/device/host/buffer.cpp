#include "device/host/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"
#include "device/host/sanitizers.h"

namespace moeflux::device::host {

namespace {
constexpr uint64_t kCanaryBytes = 64;
constexpr auto kCanary = std::byte{0xca};
constexpr uint64_t kGuardBytes = 1 << 20;  // how far off an access is still caught
constexpr uint64_t kAlignment = 16;        // of the largest element, a float4

uint64_t page_bytes() {
  return static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// One mapping: [guard][.. front canary][data][back canary ..][guard].
class Mapping {
 public:
  Mapping(uint64_t nbytes, bool guard_pages) : guard_(guard_pages ? kGuardBytes : 0) {
    const uint64_t page = page_bytes();
    const uint64_t padded = base::round_up(nbytes, kAlignment);
    const uint64_t body = page + base::round_up(guard_ ? padded : nbytes + kCanaryBytes, page);
    nbytes_ = guard_ + body + guard_;
    void* memory = mmap(nullptr, nbytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail(nbytes);
    start_ = static_cast<std::byte*>(memory);
    if (mprotect(start_ + guard_, body, PROT_READ | PROT_WRITE) != 0) {
      munmap(start_, nbytes_);
      fail(nbytes);
    }
    data_ = start_ + guard_ + (guard_ ? body - padded : page);
    front_ = {data_ - kCanaryBytes, kCanaryBytes};
    back_ = {data_ + nbytes, guard_ ? padded - nbytes : kCanaryBytes};
    for (const auto& zone : {front_, back_}) {
      std::fill(zone.begin(), zone.end(), kCanary);
      asan_forbid(zone.data(), zone.size());
    }
  }
  ~Mapping() {
    asan_allow(start_, nbytes_);
    munmap(start_, nbytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return data_; }
  bool canaries_intact() const {
    if (kAsan) return true;  // address sanitizer has reported it at the access
    const auto whole = [](std::span<const std::byte> zone) {
      return std::all_of(zone.begin(), zone.end(), [](std::byte b) { return b == kCanary; });
    };
    return whole(front_) && whole(back_);
  }

 private:
  [[noreturn]] static void fail(uint64_t nbytes) {
    throw GpuError("[host::Buffer] no memory for a buffer of ", nbytes, " bytes");
  }

  const uint64_t guard_;
  uint64_t nbytes_ = 0;
  std::byte* start_ = nullptr;
  std::byte* data_ = nullptr;
  std::span<std::byte> front_, back_;
};

class OwnedBuffer : private Mapping, public HostBuffer {
 public:
  OwnedBuffer(std::shared_ptr<const void> owner, uint64_t nbytes, bool guard_pages)
      : Mapping(nbytes, guard_pages), HostBuffer(std::move(owner), data(), nbytes) {}
  bool intact() const override { return canaries_intact(); }
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

std::shared_ptr<HostBuffer> allocate(std::shared_ptr<const void> owner, uint64_t nbytes,
                                     bool guard_pages) {
  return std::make_shared<OwnedBuffer>(std::move(owner), nbytes, guard_pages);
}

std::shared_ptr<HostBuffer> wrap(std::shared_ptr<const void> owner, std::byte* data,
                                 uint64_t nbytes, std::function<void()> on_free) {
  return std::make_shared<WrappedBuffer>(std::move(owner), data, nbytes, std::move(on_free));
}

}  // namespace moeflux::device::host
