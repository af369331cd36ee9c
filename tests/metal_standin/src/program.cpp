#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "accesses.h"
#include "control.h"
#include "device/host/sanitizers.h"

namespace metal_standin {
namespace {

namespace host = moeflux::device::host;

constexpr long kPageFault = 3;  // MTLCommandBufferErrorPageFault
constexpr uint8_t kCanary = 0xa5;
constexpr uint64_t kCanaryBytes = 64;  // at least, behind each buffer

uint64_t allocation_bytes(uint64_t nbytes) {
  return (nbytes + kCanaryBytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

Storage::Storage(uint64_t nbytes)
    : data(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, allocation_bytes(nbytes)))),
      nbytes(nbytes),
      owned(true) {
  if (!data) throw std::bad_alloc();
  std::memset(data, 0, nbytes);
  const uint64_t behind = allocation_bytes(nbytes) - nbytes;
  std::memset(data + nbytes, kCanary, behind);
  host::asan_forbid(data + nbytes, behind);  // where there is one, it reports at once, reads too
}

Storage::~Storage() {
  if (!owned) return;
  host::asan_allow(data + nbytes, allocation_bytes(nbytes) - nbytes);
  std::free(data);
}

bool Storage::intact() const {
  return !owned || host::kAsan ||
         std::all_of(data + nbytes, data + allocation_bytes(nbytes),
                     [](std::byte byte) { return byte == std::byte{kCanary}; });
}

void Program::add(Dispatch dispatch, bool new_group) {
  if (new_group || groups_.empty()) groups_.emplace_back();
  groups_.back().push_back(std::move(dispatch));
}

void Program::use(std::shared_ptr<Storage> storage) {
  if (std::ranges::find(storages_, storage) == storages_.end()) {
    storages_.push_back(std::move(storage));
  }
}

std::byte* Program::keep_bytes(const void* bytes, uint64_t nbytes) {
  const auto* first = static_cast<const std::byte*>(bytes);
  return bytes_.emplace_back(first, first + nbytes).data();
}

void Program::commit() {
  committed_ = true;
  for (const auto& storage : storages_) storage->in_flight++;
}

Program::~Program() {
  if (!committed_) return;
  for (const auto& storage : storages_) storage->in_flight--;
}

void Program::run() {
  for (const auto& group : groups_) run(group);
}

void Program::run(const std::vector<Dispatch>& group) const {
  check_storages();
  if (const std::string hazard = find_hazard(group); !hazard.empty()) {
    record_violation(hazard);
    throw GpuFault(kPageFault, hazard);
  }
  std::vector<const Dispatch*> order;
  for (const Dispatch& dispatch : group) order.push_back(&dispatch);
  for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random_below(i)]);
  for (const Dispatch* dispatch : order) run(*dispatch);
}

void Program::run(const Dispatch& dispatch) const {
  if (fails(Fault::execution)) {
    throw GpuFault(kPageFault, "Caused GPU Address Fault Error (injected)");
  }
  // The texts are those of Apple's driver. It gives the second the code of an internal error.
  if (fails(Fault::timeout))
    throw GpuFault(2, "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
                   true);
  if (fails(Fault::interactivity))
    throw GpuFault(1,
                   "Impacting Interactivity "
                   "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
                   true);
  try {
    accesses(dispatch);  // are within bounds
    dispatch.kernel->run(dispatch.launch);
  } catch (const std::exception& error) {
    throw GpuFault(kPageFault, std::string(dispatch.kernel->info->name) + ": " + error.what());
  }
  for (const auto& storage : storages_) {
    if (!storage->intact()) {
      throw GpuFault(kPageFault,
                     std::string(dispatch.kernel->info->name) + ": wrote past the end of a buffer");
    }
  }
}

void Program::check_storages() const {
  for (const auto& storage : storages_) {
    if (storage->released) throw GpuFault(kPageFault, "a buffer went away under a command buffer");
  }
}

}  // namespace metal_standin
