// Commands and pipelines of the host device.
#pragma once
#include <vector>

#include "device/host/queue.h"

namespace moeflux::device::host {

// What tells one host device's objects from another's: shared by all of them, compared by address.
using Owner = std::shared_ptr<const Limits>;

class HostPipeline : public Pipeline {
 public:
  HostPipeline(Owner owner, const KernelInfo& info, std::vector<uint64_t> constants)
      : owner_(std::move(owner)), info_(info), constants_(std::move(constants)) {}
  const KernelInfo& info() const override { return info_; }
  std::span<const uint64_t> constants() const override { return constants_; }
  uint32_t max_threads() const override { return owner_->max_threads; }
  const void* owner() const { return owner_.get(); }

 private:
  Owner owner_;
  const KernelInfo& info_;
  std::vector<uint64_t> constants_;
};

class HostCommands : public Commands {
 public:
  HostCommands(std::shared_ptr<Queue> queue, Owner owner);
  void dispatch(const std::shared_ptr<Pipeline>& pipeline, std::span<const Argument> args,
                Size grid, Size threadgroup) override;
  void on_completed(std::function<void()> handler) override;
  void on_settled(std::function<void()> handler) override;
  void commit() override;
  bool done() const override;
  bool wait_for(uint64_t timeout_ns) override;
  uint64_t gpu_ns() const override;

 private:
  void check_recording() const;

  std::shared_ptr<Queue> queue_;
  Owner owner_;
  std::shared_ptr<Batch> batch_ = std::make_shared<Batch>();
  bool committed_ = false;
};

}  // namespace moeflux::device::host
