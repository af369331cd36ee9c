#include "device/lookup.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace moeflux::device {

const KernelInfo& find_info(std::span<const KernelInfo> kernels, std::string_view kernel) {
  const auto found = std::ranges::find_if(
      kernels, [kernel](const KernelInfo& info) { return info.name == kernel; });
  if (found == kernels.end())
    throw KernelNotFoundError("[device::Kernel] no kernel named '", kernel, "' among the ",
                              kernels.size(), " of the library");
  return *found;
}

std::vector<uint64_t> constant_values(const KernelInfo& info, const Constants& constants) {
  std::vector<uint64_t> values;
  std::string names;
  for (const FunctionConstant& constant : info.constants) {
    values.push_back(constant.value);
    names += cat(names.empty() ? "" : ", ", constant.name);
  }
  for (const auto& [name, value] : constants) {
    const auto found = std::ranges::find_if(
        info.constants, [&](const FunctionConstant& constant) { return constant.name == name; });
    if (found == info.constants.end())
      throw PipelineError("[device::Kernel] ", info.name,
                          " has no function constant of that name: expected one of (", names,
                          "), found '", name, "'");
    values[size_t(found - info.constants.begin())] = value;
  }
  return values;
}

}  // namespace moeflux::device
