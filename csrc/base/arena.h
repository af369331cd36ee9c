// Arena: memory that compute reads and writes in place, every byte of it booked in one Account. A
// seam: pages of this process here, buffers that a device shares with the CPU in ops/gpu.
//
// All that a stage of ops touches comes from the model's one arena: weights, slots, KV cache,
// recurrent state, activations, scratch, routing, expert outputs, logits. So an implementation can
// turn any pointer that it is handed into its own (buffer, offset) by looking the address up among
// the arena's live blocks; pointers point into blocks, not only at their beginning. A block is one
// range of addresses; whether several share a device buffer, or a large one is covered by several
// buffers, is the arena's business. Blocks are used through Memory (memory.h). Thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/account.h"

namespace moeflux::base {

inline constexpr uint64_t kPageBytes = 4096;  // x86-64 and arm64 Linux; a macOS page is a multiple

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

class BlockList {  // blocks that compute finds by their places in it
 public:
  virtual ~BlockList() = default;
};

class Arena {
 public:
  // Blocks are rounded up to whole granules and aligned to kPageBytes at least.
  Arena(Account& account, uint64_t granule_bytes)
      : account_(account), granule_bytes_(granule_bytes) {}
  virtual ~Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Account& account() const { return account_; }
  // What a block of nbytes takes from the account.
  uint64_t booked_bytes(uint64_t nbytes) const { return round_up(nbytes, granule_bytes_); }
  // What the address of a weight must be a multiple of for compute to read it.
  virtual uint64_t weight_alignment() const { return 1; }
  // Bytes of a block that compute can write: of a device, one buffer.
  virtual uint64_t most_written() const { return UINT64_MAX; }
  // `block` is slab `number` (base/slab.h) from now on, as long as it lives: compute finds it so.
  virtual void number_slab(const std::byte* /*block*/, uint32_t /*number*/) {}
  // For compute that reads blocks by address, a list of those in which the pointers lie (a null one:
  // of nothing); null where it follows pointers. REQUIRES: the list goes when one of them does.
  virtual std::shared_ptr<const BlockList> list_blocks(
      std::span<const std::byte* const> /*pointers*/) const {
    return nullptr;
  }
  // Throws where compute could not write to a block of that size.
  virtual void check_written(uint64_t /*nbytes*/, const std::string& /*what*/) const {}

 private:
  friend class Memory;
  // nbytes: whole granules, not 0, booked by the caller. Zero-filled. Throws std::bad_alloc, or
  // GpuError where a device refuses.
  virtual std::byte* map(uint64_t nbytes) = 0;
  virtual void unmap(std::byte* data, uint64_t nbytes) noexcept = 0;  // what map returned, once

  Account& account_;
  const uint64_t granule_bytes_;
};

class HeapArena final : public Arena {  // anonymous pages: the CPU's arena
 public:
  explicit HeapArena(Account& account) : Arena(account, kPageBytes) {}

 private:
  std::byte* map(uint64_t nbytes) override;
  void unmap(std::byte* data, uint64_t nbytes) noexcept override;
};

}  // namespace moeflux::base
