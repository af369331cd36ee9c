#include "ops/gpu/device_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/slab.h"

namespace moeflux::ops::gpu {

namespace {

[[noreturn]] void fail(const auto&... what) {
  throw GpuError("[gpu::DeviceArena] ", what...);
}

std::shared_ptr<void> map_pages(uint64_t nbytes) {
  void* data = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) fail("no memory for a block of ", nbytes, " bytes");
  return {data, [nbytes](void* pages) { munmap(pages, nbytes); }};
}

}  // namespace

void check_working_set(const device::Device& device, uint64_t budget_bytes) {
  const uint64_t advised = device.limits().working_set_bytes;
  if (advised != 0 && budget_bytes > advised)
    throw MemoryBudgetError("[gpu::DeviceArena] a budget of ", budget_bytes, " bytes passes what ",
                            device.name(), " advises: at most ", advised,
                            " bytes; memory=", advised, " would do");
}

DeviceArena::DeviceArena(std::shared_ptr<device::Device> device, base::Account& account)
    : Arena(account, base::round_up(device->limits().page_bytes, base::kPageBytes)),
      device_(std::move(device)) {
  if (!device_->limits().unified_memory)
    fail("expected a device that shares its memory with the CPU, found ", device_->name());
}

void DeviceArena::check_written(uint64_t nbytes, const std::string& what) const {
  const uint64_t most = most_written();
  if (booked_bytes(nbytes) > most)
    fail(what, ": expected at most ", most, " bytes in a buffer of ", device_->name(), ", found ",
         nbytes, "; a smaller context= may do");
}

std::byte* DeviceArena::map(uint64_t nbytes) {
  Block block{nbytes, nbytes, {}, {}};
  std::byte* data = nullptr;
  if (nbytes <= device_->limits().max_buffer_bytes) {
    block.buffers = {device_->buffer(nbytes)};
    data = block.buffers.front()->contents();
  }
  // Pages of our own: where one buffer is too small, or does not begin on a page.
  if (data == nullptr || reinterpret_cast<uintptr_t>(data) % base::kPageBytes != 0) {
    std::shared_ptr<void> pages = map_pages(nbytes);
    data = static_cast<std::byte*>(pages.get());
    block = cover(data, nbytes, std::move(pages));
  }
  base::Lock lock(mutex_);
  blocks_.emplace(data, std::move(block));
  return data;
}

void DeviceArena::unmap(std::byte* data, uint64_t) noexcept {
  base::Lock lock(mutex_);
  const auto block = blocks_.find(data);
  if (block->second.slab) {
    slabs_[*block->second.slab] = nullptr;
    list_ = nullptr;
  }
  blocks_.erase(block);
}

void DeviceArena::number_slab(const std::byte* data, uint32_t number) {
  base::Lock lock(mutex_);
  Block& block = blocks_.at(data);
  if (block.buffers.size() > 1) return;  // no kernel could reach all of a slot
  if (number >= slabs_.size()) slabs_.resize(number + size_t{1});
  block.slab = number;
  slabs_[number] = block.buffers.front();
  list_ = nullptr;
}

std::optional<DeviceArena::InSlab> DeviceArena::in_slab(const void* data, uint64_t nbytes) const {
  base::Lock lock(mutex_);
  const auto [block, offset, index] = find(data);
  if (!block->slab || nbytes > block->nbytes - offset ||
      offset / base::kSlotAlignment >> base::SlabEntry::kOffsetBits != 0)
    return std::nullopt;
  return InSlab{base::SlabEntry::entry(*block->slab, offset), offset % base::kSlotAlignment};
}

DeviceArena::Slabs DeviceArena::slabs() const {
  base::Lock lock(mutex_);
  if (!list_) list_ = device_->addresses(slabs_);
  return {{list_, 0}, static_cast<uint32_t>(slabs_.size())};
}

std::shared_ptr<const base::BlockList> DeviceArena::list_blocks(
    std::span<const std::byte* const> pointers) const {
  std::vector<std::shared_ptr<device::Buffer>> buffers;
  {
    base::Lock lock(mutex_);
    for (const std::byte* data : pointers) {
      if (data == nullptr) {
        buffers.push_back(nullptr);
        continue;
      }
      const Block& block = *find(data).block;
      if (block.buffers.size() > 1)
        fail("memory that kernels reach by address: expected at most ",
             device_->limits().max_buffer_bytes, " bytes in a block, found ", block.nbytes);
      buffers.push_back(block.buffers.front());
    }
  }
  return std::make_shared<AddressList>(Place{device_->addresses(buffers), 0});
}

DeviceArena::Block DeviceArena::cover(std::byte* pages, uint64_t nbytes,
                                      std::shared_ptr<void> owner) const {
  const device::Limits& limits = device_->limits();
  const uint64_t most = limits.max_buffer_bytes / limits.page_bytes * limits.page_bytes;
  const uint64_t window = std::min(nbytes, most);
  Block block{nbytes, window, {}, {}};
  if (window < nbytes) block.step = window / 2 / limits.page_bytes * limits.page_bytes;
  if (block.step == 0)
    fail("a block is larger than two buffers of a page could cover: expected at most ",
         limits.max_buffer_bytes, " bytes, found ", nbytes);
  for (uint64_t at = 0;; at += block.step) {
    const uint64_t length = std::min(window, nbytes - at);
    block.buffers.push_back(device_->wrap(pages + at, length, [owner] {}));
    if (at + length == nbytes) return block;
  }
}

DeviceArena::Found DeviceArena::find(const void* data) const {
  const auto* address = static_cast<const std::byte*>(data);
  auto it = blocks_.upper_bound(address);
  if (it != blocks_.begin()) {
    --it;
    const Block& block = it->second;
    const auto offset = static_cast<uint64_t>(address - it->first);
    if (offset < block.nbytes)
      return {&block, offset, std::min<size_t>(offset / block.step, block.buffers.size() - 1)};
  }
  fail("an operand lies outside the arena");
}

Place DeviceArena::locate(const void* data, uint64_t nbytes, Access access) const {
  base::Lock lock(mutex_);
  const Found found = find(data);
  const Block& block = *found.block;
  if (nbytes > block.nbytes - found.offset)
    fail("an operand ends outside the arena: expected at most ", block.nbytes - found.offset,
         " bytes, found ", nbytes);
  if (access == Access::write && block.buffers.size() > 1)
    fail("memory that the device writes: expected at most ", device_->limits().max_buffer_bytes,
         " bytes in a block, found ", block.nbytes);
  const std::shared_ptr<device::Buffer>& buffer = block.buffers[found.index];
  const uint64_t offset = found.offset - found.index * block.step;
  if (nbytes > buffer->nbytes() - offset)
    fail("an operand does not fit one buffer: expected at most ", buffer->nbytes() - offset,
         " bytes, found ", nbytes);
  return {buffer, offset};
}

uint64_t DeviceArena::reach(const void* data) const {
  base::Lock lock(mutex_);
  const Found found = find(data);
  return found.block->buffers[found.index]->nbytes() -
         (found.offset - found.index * found.block->step);
}

}  // namespace moeflux::ops::gpu
