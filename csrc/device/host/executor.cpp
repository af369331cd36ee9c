#include "device/host/executor.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"
#include "device/host/sanitizers.h"

namespace moeflux::device::host {

namespace {
thread_local std::byte* memory_of_group = nullptr;

// Visits 0 .. total - 1 in an order that depends on the seed; 0 keeps it.
class Order {
 public:
  Order(uint64_t total, uint32_t seed) : total_(total), shuffled_(seed != 0 && total > 1) {
    if (!shuffled_) return;
    const uint64_t hash = seed * UINT64_C(0x9e3779b97f4a7c15);  // Knuth's multiplicative hash
    start_ = (hash >> 32) % total;
    step_ = (hash >> 16) % total | 1;
    while (std::gcd(step_, total) != 1) step_ += 2;
  }
  uint64_t at(uint64_t i) const {
    if (!shuffled_) return i;
    return static_cast<uint64_t>((start_ + static_cast<unsigned __int128>(i) * step_) % total_);
  }

 private:
  const uint64_t total_;
  const bool shuffled_;
  uint64_t start_ = 0, step_ = 1;  // coprime to total_
};

Group group_at(const Launch& launch, const Size& groups, uint64_t index) {
  Group group;
  group.buffers = launch.arguments.data();
  group.grid = launch.grid;
  group.full = launch.threadgroup;
  group.groups = groups;
  group.position = {static_cast<uint32_t>(index % groups[0]),
                    static_cast<uint32_t>(index / groups[0] % groups[1]),
                    static_cast<uint32_t>(index / groups[0] / groups[1])};
  for (int d = 0; d < 3; ++d)
    group.threads[d] =
        std::min(launch.threadgroup[d], launch.grid[d] - group.position[d] * group.full[d]);
  return group;
}

std::string name_of(const Launch& launch, const Group& group) {
  const Size& at = group.position;
  return cat("[host::Executor] kernel ", launch.info.name, ", threadgroup (", at[0], ", ", at[1],
             ", ", at[2], "): ");
}
}  // namespace

const Kernel& kernel_of(const KernelInfo& info) {
  return kernels()[static_cast<size_t>(&info - kernel_table().data())];
}

std::byte* threadgroup_memory() {
  return memory_of_group;
}

void Executor::run(const Launch& launch) {
  const Kernel& kernel = kernel_of(launch.info);
  kernel.specialise(launch.constants);
  scheduler_.seed(launch.seed);
  Size groups;
  for (int d = 0; d < 3; ++d)
    groups[d] = static_cast<uint32_t>((uint64_t{launch.grid[d]} + launch.threadgroup[d] - 1) /
                                      launch.threadgroup[d]);
  const uint64_t total = uint64_t{groups[0]} * groups[1] * groups[2];
  const Order order(total, launch.seed);
  for (uint64_t i = 0; i < total; ++i) {
    const Group group = group_at(launch, groups, order.at(i));
    memory_.prepare(kernel.arrays);
    memory_of_group = memory_.data();
    try {
      run_group(kernel, group);
    } catch (const GpuError& error) {
      scheduler_.join();
      throw GpuError(name_of(launch, group), error.what());
    }
    if (const ThreadgroupArray* array = memory_.overrun(kernel.arrays))
      throw GpuError(name_of(launch, group), "threadgroup array ", array->name, " of ",
                     array->nbytes, " bytes was written out of bounds");
  }
  scheduler_.join();
  if (kTsan) memory_.forget();
}

void Executor::run_group(const Kernel& kernel, const Group& group) {
  if (kernel.synchronises || kTsan) {
    scheduler_.run(kernel, group);
    return;
  }
  const uint32_t count = group.threads[0] * group.threads[1] * group.threads[2];
  for (uint32_t i = 0; i < count; ++i) kernel.run(thread_at(group, i), group);
}

}  // namespace moeflux::device::host
