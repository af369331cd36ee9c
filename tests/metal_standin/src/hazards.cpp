#include "hazards.h"

#include <algorithm>
#include <cstring>

namespace metal_standin {
namespace {

using moeflux::device::Binding;
using moeflux::device::Call;
using moeflux::device::KernelInfo;
using moeflux::device::type_bytes;

struct Access {
  const char* name;
  const std::byte *begin, *end;
  bool writes;
};

uint64_t scalar_value(const Binding& binding, const Bound& bound) {
  uint32_t bits = 0;
  if (bound.data) std::memcpy(&bits, bound.data, std::min<uint64_t>(bound.nbytes, sizeof bits));
  return binding.scalar ? bits : 0;
}

uint64_t maximum(const Binding& binding, const Bound& bound) {
  if (!binding.needs_maximum || !bound.data) return 0;
  const std::span values(reinterpret_cast<const uint32_t*>(bound.data), bound.nbytes / 4);
  return values.empty() ? 0 : *std::ranges::max_element(values);
}

// The ranges that a dispatch touches, as far as its table says, else to the end of the buffer.
std::vector<Access> accesses(const Program::Dispatch& dispatch) {
  const KernelInfo& info = *dispatch.kernel->info;
  const Launch& launch = dispatch.launch;
  std::vector<uint64_t> scalars, lengths, maxima;
  for (size_t i = 0; i < info.bindings.size(); i++) {
    const Binding& binding = info.bindings[i];
    const Bound& bound = launch.bound[i];
    scalars.push_back(scalar_value(binding, bound));
    lengths.push_back(binding.scalar ? 0 : bound.nbytes / type_bytes(binding.type));
    maxima.push_back(maximum(binding, bound));
  }
  const Call call{scalars, lengths, launch.constants, maxima, launch.grid, launch.threadgroup};
  std::vector<Access> all;
  for (size_t i = 0; i < info.bindings.size(); i++) {
    const Binding& binding = info.bindings[i];
    const Bound& bound = launch.bound[i];
    if (binding.scalar || !bound.data) continue;
    unsigned __int128 nbytes = bound.nbytes;
    if (binding.elements)
      nbytes = std::min(nbytes, binding.elements(call) * type_bytes(binding.type));
    all.push_back({binding.name, bound.data, bound.data + uint64_t(nbytes), binding.writable});
  }
  return all;
}

}  // namespace

std::string find_hazard(std::span<const Program::Dispatch> group) {
  if (group.size() < 2) return {};
  std::vector<std::vector<Access>> all;
  for (const auto& dispatch : group) all.push_back(accesses(dispatch));
  for (size_t second = 1; second < group.size(); second++) {
    for (size_t first = 0; first < second; first++) {
      for (const Access& a : all[first]) {
        for (const Access& b : all[second]) {
          if ((a.writes || b.writes) && a.begin < b.end && b.begin < a.end) {
            return std::string("no barrier between ") + group[first].kernel->info->name + " (" +
                   a.name + (a.writes ? ", written" : ", read") + ") and " +
                   group[second].kernel->info->name + " (" + b.name +
                   (b.writes ? ", written" : ", read") + ") on the same memory";
          }
        }
      }
    }
  }
  return {};
}

}  // namespace metal_standin
