// The host device: the translated shaders behind device.h, on every machine.
#include "device/host/host_device.h"

#include <unistd.h>

#include <map>
#include <string>

#include "base/mutex.h"
#include "device/host/buffer.h"
#include "device/host/commands.h"
#include "device/limits.h"
#include "device/lookup.h"

namespace moeflux::device {
namespace host {
namespace {

Limits limits_of_this_machine() {
  Limits limits;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  limits.max_buffer_bytes = page * static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  limits.page_bytes = page;
  return limits;
}

class HostDevice : public Device {
 public:
  explicit HostDevice(const Options& options)
      : options_(options),
        name_(options.checked ? "shaders on the CPU, checked" : "shaders on the CPU"),
        owner_(std::make_shared<Limits>(limits_of_this_machine())),
        queue_(std::make_shared<Queue>(*owner_, options)) {}

  std::string_view kind() const override { return "host"; }
  const std::string& name() const override { return name_; }
  const Limits& limits() const override { return *owner_; }

  std::shared_ptr<Buffer> buffer(uint64_t nbytes) override {
    check_buffer(*owner_, nbytes);
    return allocate(owner_, nbytes, options_.guard_pages);
  }
  std::shared_ptr<Buffer> wrap(std::byte* data, uint64_t nbytes,
                               std::function<void()> on_free) override {
    check_wrap(*owner_, data, nbytes);
    return host::wrap(owner_, data, nbytes, std::move(on_free));
  }

  std::shared_ptr<Pipeline> pipeline(std::string_view kernel, const Constants& constants) override {
    const KernelInfo& info = find_info(kernel_table(), kernel);
    std::vector<uint64_t> values = constant_values(info, constants);
    const base::Lock lock(mutex_);
    auto& cached = pipelines_[{info.name, values}];
    if (!cached) cached = std::make_shared<HostPipeline>(owner_, info, std::move(values));
    return cached;
  }
  size_t pipeline_count() const override {
    const base::Lock lock(mutex_);
    return pipelines_.size();
  }
  std::unique_ptr<Commands> commands() override {
    return std::make_unique<HostCommands>(queue_, owner_);
  }

 private:
  using Key = std::pair<std::string, std::vector<uint64_t>>;  // name, constants

  const Options options_;
  const std::string name_;
  const Owner owner_;
  const std::shared_ptr<Queue> queue_;  // outlives the device while a Commands holds it
  mutable base::Mutex mutex_;
  std::map<Key, std::shared_ptr<Pipeline>> pipelines_ GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Device> open(const Options& options) {
  return std::make_unique<HostDevice>(options);
}

}  // namespace host

std::unique_ptr<Device> open_host() {
  return host::open(host::options_of_this_build());
}

}  // namespace moeflux::device
