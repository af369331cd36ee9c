#include "device/host/commands.h"

#include "base/error.h"
#include "device/check.h"
#include "device/host/buffer.h"

namespace moeflux::device::host {

HostCommands::HostCommands(std::shared_ptr<Queue> queue, Owner owner)
    : queue_(std::move(queue)), owner_(std::move(owner)) {}

void HostCommands::check_recording() const {
  if (committed_) throw GpuError("[host::Commands] already committed");
}

void HostCommands::dispatch(const std::shared_ptr<Pipeline>& pipeline,
                            std::span<const Argument> args, Size grid, Size threadgroup) {
  check_recording();
  const auto* ours = dynamic_cast<const HostPipeline*>(pipeline.get());
  if (!ours || ours->owner() != owner_.get())
    throw FormatError("[host::Commands] expected a pipeline of this device");
  for (const Argument& argument : args) {
    const Slice* slice = std::get_if<Slice>(&argument);
    if (!slice || !slice->buffer) continue;
    const auto* buffer = dynamic_cast<const HostBuffer*>(slice->buffer.get());
    if (!buffer || buffer->owner() != owner_.get())
      throw FormatError("[host::Commands] kernel ", pipeline->info().name,
                        ": expected buffers of this device");
  }
  check_dispatch(*pipeline, *owner_, args, {grid, threadgroup});
  batch_->recording.dispatch(pipeline, args, grid, threadgroup);
}

void HostCommands::on_completed(std::function<void()> handler) {
  check_recording();
  batch_->completion.on_completed(std::move(handler));
}

void HostCommands::on_settled(std::function<void()> handler) {
  check_recording();
  batch_->completion.on_settled(std::move(handler));
}

void HostCommands::commit() {
  check_recording();
  committed_ = true;
  queue_->commit(batch_);
  queue_.reset();  // a handler may hold the last reference to this, on the queue's own thread
}

bool HostCommands::done() const {
  return batch_->completion.done();
}

bool HostCommands::wait_for(uint64_t timeout_ns) {
  if (!committed_) throw GpuError("[host::Commands] wait before commit");
  return batch_->completion.wait_for(timeout_ns);
}

uint64_t HostCommands::gpu_ns() const {
  return batch_->completion.gpu_ns();
}

}  // namespace moeflux::device::host
