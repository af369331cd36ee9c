// The host device: the translated shaders behind device.h, on every machine.
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "device/check.h"
#include "device/host/buffer.h"
#include "device/host/queue.h"

namespace moeflux::device {
namespace host {
namespace {

class HostPipeline : public Pipeline {
 public:
  HostPipeline(std::shared_ptr<const void> owner, const KernelInfo& info,
               std::vector<uint64_t> constants)
      : owner_(std::move(owner)), info_(info), constants_(std::move(constants)) {}
  const KernelInfo& info() const override { return info_; }
  std::span<const uint64_t> constants() const override { return constants_; }
  uint32_t max_threads() const override { return 1024; }
  const void* owner() const { return owner_.get(); }

 private:
  std::shared_ptr<const void> owner_;
  const KernelInfo& info_;
  std::vector<uint64_t> constants_;
};

std::vector<uint64_t> resolve(const KernelInfo& info, const Constants& given) {
  std::vector<uint64_t> values;
  for (const FunctionConstant& constant : info.constants) values.push_back(constant.value);
  for (const auto& [name, value] : given) {
    const auto found = std::find_if(info.constants.begin(), info.constants.end(),
                                    [&](const FunctionConstant& c) { return name == c.name; });
    if (found == info.constants.end()) {
      std::string known;
      for (const FunctionConstant& constant : info.constants)
        known += (known.empty() ? "" : ", ") + std::string(constant.name);
      throw PipelineError("[device::Pipeline] kernel " + std::string(info.name) +
                          " has no such function constant: expected one of (" + known +
                          "), found " + name);
    }
    values[static_cast<size_t>(found - info.constants.begin())] = value;
  }
  return values;
}

class HostCommands : public Commands {
 public:
  HostCommands(std::shared_ptr<Queue> queue, std::shared_ptr<const Limits> limits)
      : queue_(std::move(queue)), limits_(std::move(limits)) {}

  void dispatch(const std::shared_ptr<Pipeline>& pipeline, std::span<const Argument> args,
                Size grid, Size threadgroup) override {
    check_open();
    const auto* ours = dynamic_cast<const HostPipeline*>(pipeline.get());
    if (!ours || ours->owner() != limits_.get())
      throw FormatError("[device::Commands] expected a pipeline of this device");
    check_dispatch(*pipeline, *limits_, args, {grid, threadgroup});
    for (const Argument& argument : args)
      if (const Slice* slice = std::get_if<Slice>(&argument); slice && slice->buffer) {
        const auto* buffer = dynamic_cast<const HostBuffer*>(slice->buffer.get());
        if (!buffer || buffer->owner() != limits_.get())
          throw FormatError("[device::Commands] kernel " + std::string(pipeline->info().name) +
                            ": expected buffers of this device, found one of another");
      }
    batch_->steps.emplace_back(
        Dispatch{pipeline, {args.begin(), args.end()}, grid, threadgroup});
  }
  void signal(const std::shared_ptr<Event>& event, uint64_t value) override {
    check_open();
    batch_->steps.emplace_back(Signal{of_this_device(event), value});
  }
  void await(const std::shared_ptr<Event>& event, uint64_t value) override {
    check_open();
    batch_->steps.emplace_back(Await{of_this_device(event), value});
  }
  void on_completed(std::function<void()> handler) override {
    check_open();
    batch_->handlers.push_back(std::move(handler));
  }
  void commit() override {
    check_open();
    committed_ = true;
    queue_->commit(batch_);
  }
  bool done() const override { return committed_ && batch_->done(); }
  bool wait_for(uint64_t timeout_ns) override {
    if (!committed_) throw GpuError("[device::Commands] wait before commit");
    return batch_->wait_for(timeout_ns);
  }
  uint64_t gpu_ns() const override { return batch_->gpu_ns(); }

 private:
  void check_open() const {
    if (committed_) throw GpuError("[device::Commands] already committed");
  }
  static std::shared_ptr<HostEvent> of_this_device(const std::shared_ptr<Event>& event) {
    auto ours = std::dynamic_pointer_cast<HostEvent>(event);
    if (!ours) throw FormatError("[device::Commands] expected an event of this device");
    return ours;
  }

  std::shared_ptr<Queue> queue_;
  std::shared_ptr<const Limits> limits_;
  std::shared_ptr<Batch> batch_ = std::make_shared<Batch>();
  bool committed_ = false;
};

Limits limits_of_this_machine() {
  Limits limits;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  limits.max_buffer_bytes = page * static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  limits.page_bytes = page;
  return limits;
}

class HostDevice : public Device {
 public:
  std::string_view kind() const override { return "host"; }
  const std::string& name() const override { return name_; }
  const Limits& limits() const override { return *limits_; }

  std::shared_ptr<Buffer> buffer(uint64_t nbytes) override {
    if (nbytes == 0) throw FormatError("[device::Buffer] expected at least one byte, found 0");
    if (nbytes > limits_->max_buffer_bytes)
      throw GpuError("[device::Buffer] too large: expected at most " +
                     std::to_string(limits_->max_buffer_bytes) + " bytes, found " +
                     std::to_string(nbytes));
    return allocate(limits_, nbytes);
  }
  std::shared_ptr<Buffer> wrap(std::byte* data, uint64_t nbytes,
                               std::function<void()> on_free) override {
    const uint64_t page = limits_->page_bytes;
    if (!data || nbytes == 0 || reinterpret_cast<uintptr_t>(data) % page || nbytes % page)
      throw FormatError("[device::Buffer] memory to wrap: expected whole pages of " +
                        std::to_string(page) + " bytes, found " + std::to_string(nbytes) +
                        " bytes at offset " +
                        std::to_string(reinterpret_cast<uintptr_t>(data) % page) + " of a page");
    return host::wrap(limits_, data, nbytes, std::move(on_free));
  }

  std::shared_ptr<Pipeline> pipeline(std::string_view kernel,
                                     const Constants& constants) override {
    const KernelInfo* info = find_kernel(kernel);
    if (!info)
      throw KernelNotFoundError("[device::Pipeline] no kernel of this name in the library: " +
                                std::string(kernel));
    std::vector<uint64_t> values = resolve(*info, constants);
    const std::lock_guard lock(mutex_);
    auto& cached = pipelines_[{info, values}];
    if (!cached) cached = std::make_shared<HostPipeline>(limits_, *info, std::move(values));
    return cached;
  }
  size_t pipeline_count() const override {
    const std::lock_guard lock(mutex_);
    return pipelines_.size();
  }
  std::unique_ptr<Commands> commands() override {
    return std::make_unique<HostCommands>(queue_, limits_);
  }
  std::shared_ptr<Event> event() override { return std::make_shared<HostEvent>(); }

 private:
  const std::string name_ = "host (shaders on the CPU)";
  // Shared, so that its address stays this device's as long as anything refers to it.
  std::shared_ptr<const Limits> limits_ = std::make_shared<Limits>(limits_of_this_machine());
  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>(*limits_);
  mutable std::mutex mutex_;
  std::map<std::pair<const KernelInfo*, std::vector<uint64_t>>, std::shared_ptr<Pipeline>>
      pipelines_;  // guarded by mutex_
};

}  // namespace
}  // namespace host

std::unique_ptr<Device> open_host() {
  return std::make_unique<host::HostDevice>();
}

}  // namespace moeflux::device
