#include "accesses.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace metal_standin {
namespace {

using moeflux::device::Binding;
using moeflux::device::Call;
using moeflux::device::KernelInfo;
using moeflux::device::type_bytes;
using moeflux::device::Wide;

struct Values {  // what the table's expressions ask for, by binding
  explicit Values(const Program::Dispatch& dispatch)
      : info(*dispatch.kernel->info), launch(dispatch.launch) {
    const size_t count = info.bindings.size();
    scalars.resize(count);
    lengths.resize(count);
    maxima.resize(count);
    for (size_t i = 0; i < count; i++) {
      const Bound& bound = launch.bound[i];
      if (info.bindings[i].scalar) {
        std::memcpy(&scalars[i], bound.data, type_bytes(info.bindings[i].type));
      } else {
        lengths[i] = bound.nbytes / type_bytes(info.bindings[i].type);
      }
    }
    for (size_t i = 0; i < count; i++) {
      if (info.bindings[i].needs_maximum) maxima[i] = maximum(i);
    }
  }

  Call call() const {
    return {scalars, lengths, launch.constants, maxima, launch.grid, launch.threadgroup};
  }

  Wide elements(size_t i) const { return info.bindings[i].elements(call()); }

  const KernelInfo& info;
  const Launch& launch;
  std::vector<uint64_t> scalars, lengths, maxima;

 private:
  uint64_t maximum(size_t i) const {  // of the elements that the kernel reads
    const auto* first = launch.at<uint32_t>(i);
    const auto count = uint64_t(std::min<Wide>(elements(i), lengths[i]));
    return count ? *std::max_element(first, first + count) : 0;
  }
};

}  // namespace

std::vector<Access> accesses(const Program::Dispatch& dispatch) {
  const Values values(dispatch);
  std::vector<Access> all;
  for (size_t i = 0; i < values.info.bindings.size(); i++) {
    const Binding& binding = values.info.bindings[i];
    if (binding.scalar) continue;
    const Wide elements = values.elements(i);
    if (elements > values.lengths[i]) {
      throw std::runtime_error(std::string(binding.name) + " is accessed out of bounds");
    }
    const std::byte* begin = values.launch.bound[i].data;
    all.push_back({binding.name, begin, begin + uint64_t(elements) * type_bytes(binding.type),
                   binding.writable});
  }
  return all;
}

std::string find_hazard(std::span<const Program::Dispatch> group) {
  if (group.size() < 2) return {};
  std::vector<std::vector<Access>> all;
  for (const auto& dispatch : group) all.push_back(accesses(dispatch));
  const auto describe = [&](size_t dispatch, const Access& access) {
    return std::string(group[dispatch].kernel->info->name) + " (" + access.name +
           (access.writes ? ", written)" : ", read)");
  };
  for (size_t second = 1; second < group.size(); second++) {
    for (size_t first = 0; first < second; first++) {
      for (const Access& a : all[first]) {
        for (const Access& b : all[second]) {
          if ((a.writes || b.writes) && a.begin < b.end && b.begin < a.end) {
            return "no barrier between " + describe(first, a) + " and " + describe(second, b) +
                   " on the same memory";
          }
        }
      }
    }
  }
  return {};
}

}  // namespace metal_standin
