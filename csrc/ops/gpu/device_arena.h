// DeviceArena: memory that the CPU and a device share, booked in the model's account, and where in
// which of the device's buffers any address of it lies.
//
// A block is a buffer of its own, so that memory given back goes back at once. A block larger than
// the device's largest buffer is one range of addresses under several buffers, each of which
// overlaps the next by half: rows of a matrix are found whole, whatever their length, up to half of
// the limit (reach() says how many at a time). Devices track hazards by buffer, so such a block is
// only ever read by the device; resident weights are. What it writes is kept in smaller blocks.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/mutex.h"
#include "device/device.h"

namespace moeflux::ops::gpu {

using Place = device::Slice;  // bytes [offset, buffer end)

// Throws MemoryBudgetError, with both numbers, when a model of this budget would hold more than the
// device advises (recommendedMaxWorkingSetSize): beyond it a GPU pages, or fails.
void check_working_set(const device::Device& device, uint64_t budget_bytes);

struct AddressList final : base::BlockList {  // of DeviceArena::list_blocks
  explicit AddressList(Place place) : place(std::move(place)) {}
  Place place;
};

class DeviceArena final : public base::Arena {
 public:
  static constexpr uint64_t kWeightAlignment = 64;  // kernels read up to float4

  enum class Access { read, write };  // of the device

  // Throws GpuError for a device whose memory the CPU cannot reach.
  DeviceArena(std::shared_ptr<device::Device> device, base::Account& account);

  // The buffer that holds all of [data, data + nbytes). Throws GpuError when those bytes are not of
  // this arena, when no one buffer holds them all, or when the device is to write into a block that
  // lies under several.
  Place locate(const void* data, uint64_t nbytes, Access access = Access::read) const;
  // How many bytes from `data` on locate() can give in one buffer: to cut a matrix between rows.
  // Throws GpuError when `data` is not of this arena.
  uint64_t reach(const void* data) const;

  uint64_t weight_alignment() const override { return kWeightAlignment; }
  uint64_t most_written() const override { return device_->limits().max_buffer_bytes; }
  // Throws GpuError, with both numbers, for more than the device's largest buffer.
  void check_written(uint64_t nbytes, const std::string& what) const override;

  void number_slab(const std::byte* block, uint32_t number) override;
  // Where in a slab `data` lies: the entry of the unit that it is in, and the bytes behind the
  // unit's start. None: in no slab, or not all of [data, data + nbytes).
  struct InSlab {
    uint32_t entry;
    uint64_t rest;
  };
  std::optional<InSlab> in_slab(const void* data, uint64_t nbytes) const;
  // The slabs by number, for kernels (shaders/slabs.h), as they are now: a list is made anew when a
  // slab comes or goes, and recordings keep theirs. 16 bytes a slab, not booked.
  struct Slabs {
    Place list;
    uint32_t count = 0;
  };
  Slabs slabs() const;

  // Of (address, bytes). Recordings keep theirs. 16 bytes a block, not booked.
  std::shared_ptr<const base::BlockList> list_blocks(
      std::span<const std::byte* const> pointers) const override;

  device::Device& device() const { return *device_; }

 private:
  struct Block {
    uint64_t nbytes = 0;
    uint64_t step = 0;  // from the start of one buffer to that of the next
    std::vector<std::shared_ptr<device::Buffer>> buffers;
    std::optional<uint32_t> slab;  // its number
  };
  struct Found {
    const Block* block;
    uint64_t offset;  // in the block
    size_t index;     // of the last buffer that holds that byte
  };
  std::byte* map(uint64_t nbytes) override;
  void unmap(std::byte* data, uint64_t nbytes) noexcept override;
  Block cover(std::byte* pages, uint64_t nbytes, std::shared_ptr<void> owner) const;
  Found find(const void* data) const REQUIRES(mutex_);

  std::shared_ptr<device::Device> device_;
  mutable base::Mutex mutex_;
  std::map<const std::byte*, Block> blocks_ GUARDED_BY(mutex_);  // by address
  std::vector<std::shared_ptr<device::Buffer>> slabs_ GUARDED_BY(mutex_);
  mutable std::shared_ptr<device::Buffer> list_ GUARDED_BY(mutex_);  // of slabs_; null: to be made
};

}  // namespace moeflux::ops::gpu
