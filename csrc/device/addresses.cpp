#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "device/device.h"

namespace moeflux::device {

std::shared_ptr<Buffer> Device::addresses(std::span<const std::shared_ptr<Buffer>> buffers) {
  std::vector<uint64_t> list;
  for (const auto& buffer : buffers) {
    list.push_back(buffer ? buffer->address() : 0);
    list.push_back(buffer ? buffer->nbytes() : 0);
  }
  auto made = buffer(std::max<uint64_t>(list.size() * sizeof(uint64_t), 1));
  if (!made->contents()) throw GpuError("[device::addresses] ", name(), " shares no memory");
  std::copy(list.begin(), list.end(), reinterpret_cast<uint64_t*>(made->contents()));
  std::copy_if(buffers.begin(), buffers.end(), std::back_inserter(made->reaches_),
               [](const auto& buffer) { return buffer != nullptr; });
  made->is_list_ = true;
  return made;
}

}  // namespace moeflux::device
