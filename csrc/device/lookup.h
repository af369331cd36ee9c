// From the names that callers use to entries of a binding table.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "device/kernel_table.h"

namespace moeflux::device {

// Throws KernelNotFoundError.
const KernelInfo& find_info(std::span<const KernelInfo> kernels, std::string_view kernel);

// One value for each function constant of the kernel, in the table's order, defaults filled in.
// Throws PipelineError for a name that the kernel does not have.
std::vector<uint64_t> constant_values(const KernelInfo& info, const Constants& constants);

}  // namespace moeflux::device
