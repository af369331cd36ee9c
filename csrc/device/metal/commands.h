// Commands over Metal. Dispatches are checked and recorded; commit() encodes them all into one
// MTLCommandBuffer. So no encoder is ever left open, and no command buffer exists that is not
// committed: a queue makes whoever asks for more than its 64 wait until one has completed, which
// committed ones do by themselves. For .mm files only.
#pragma once
#include <memory>
#include <string>

#include "device/completion.h"
#include "device/device.h"
#include "device/metal/context.h"
#include "device/recording.h"

namespace moeflux::device::metal {

class MetalCommands final : public Commands {
 public:
  explicit MetalCommands(std::shared_ptr<const Context> context) : context_(std::move(context)) {}

  void dispatch(const std::shared_ptr<Pipeline>& pipeline, std::span<const Argument> args,
                Size grid, Size threadgroup) override;
  void on_completed(std::function<void()> handler) override;
  void on_settled(std::function<void()> handler) override;
  void commit() override;
  bool done() const override { return completion_->done(); }
  bool wait_for(uint64_t timeout_ns) override;
  uint64_t gpu_ns() const override { return completion_->gpu_ns(); }

 private:
  void check_open(const char* what) const;

  const std::shared_ptr<const Context> context_;
  const std::shared_ptr<Completion> completion_ = std::make_shared<Completion>();
  std::unique_ptr<Recording> recording_ = std::make_unique<Recording>();  // null: committed
};

}  // namespace moeflux::device::metal
