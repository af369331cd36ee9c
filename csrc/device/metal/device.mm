// MetalDevice: opens the system's GPU and hands out what the other files of this folder make.
#import <Metal/Metal.h>

#include <string>

#include "base/error.h"
#include "device/device.h"
#include "device/metal/buffer.h"
#include "device/metal/capture.h"
#include "device/metal/commands.h"
#include "device/metal/context.h"
#include "device/metal/library.h"
#include "device/metal/options.h"
#include "device/metal/own_library.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {
namespace {

// macOS ends work that keeps the display waiting. Nobody says after how long; what others report of
// lies above 100 ms.
constexpr uint64_t kDispatchNs = 10'000'000, kBufferNs = 50'000'000;
constexpr NSUInteger kUnboundBytes = 16;  // the largest vector type that a kernel could load

Limits limits_of(id<MTLDevice> device) {
  Limits limits;
  limits.max_buffer_bytes = device.maxBufferLength;
  limits.working_set_bytes = device.recommendedMaxWorkingSetSize;
  limits.max_threads = uint32_t(device.maxThreadsPerThreadgroup.width);
  limits.threadgroup_bytes = uint32_t(device.maxThreadgroupMemoryLength);
  limits.unified_memory = device.hasUnifiedMemory;
  limits.simdgroup_matrices = [device supportsFamily:MTLGPUFamilyApple7];
  limits.dispatch_ns = kDispatchNs;
  limits.buffer_ns = kBufferNs;
  return limits;
}

std::shared_ptr<const Context> open_context() {
  const Pool pool;
  auto context = std::make_shared<Context>();
  context->device = Retained<id<MTLDevice>>::adopt(MTLCreateSystemDefaultDevice());
  id<MTLDevice> device = context->device.get();
  if (!device) throw NoDeviceError("[device::Metal] this machine offers no Metal device");
  context->name = to_string(device.name);
  context->limits = limits_of(device);
  context->residency = std::make_unique<Residency>(device);
  context->queue = std::make_unique<Queue>(context->device, *context->residency);
  context->unbound =
      Retained<id<MTLBuffer>>::adopt([device newBufferWithLength:kUnboundBytes
                                                         options:MTLResourceStorageModeShared]);
  if (!context->unbound)
    throw GpuError("[device::Metal] no memory for a buffer on ", context->name);
  return context;
}

class MetalDevice final : public Device {
 public:
  explicit MetalDevice(const Options& options)
      : context_(open_context()), library_(context_, options) {}

  std::string_view kind() const override { return "metal"; }
  const std::string& name() const override { return context_->name; }
  const Limits& limits() const override { return context_->limits; }
  std::shared_ptr<Buffer> buffer(uint64_t nbytes) override {
    const Pool pool;
    return make_buffer(context_, nbytes);
  }
  std::shared_ptr<Buffer> wrap(std::byte* data, uint64_t nbytes,
                               std::function<void()> on_free) override {
    const Pool pool;
    return wrap_memory(context_, data, nbytes, std::move(on_free));
  }
  std::shared_ptr<Pipeline> pipeline(std::string_view kernel, const Constants& constants) override {
    return library_.pipeline(kernel, constants);
  }
  size_t pipeline_count() const override { return library_.pipeline_count(); }
  uint32_t untold_threads(std::string_view kernel) override {
    return library_.untold_threads(kernel);
  }
  std::shared_ptr<OwnLibrary> compile(std::string_view source) override {
    const Pool pool;
    return std::make_shared<MetalOwnLibrary>(context_, source);
  }
  void begin_capture(const std::string& path) override {
    const Pool pool;
    metal::begin_capture(context_->device.get(), path);
  }
  void end_capture() override {
    const Pool pool;
    metal::end_capture();
  }
  std::unique_ptr<Commands> commands() override {
    return std::make_unique<MetalCommands>(context_);
  }

 private:
  const std::shared_ptr<const Context> context_;
  Library library_;
};

}  // namespace

std::unique_ptr<Device> open(const Options& options) {
  return std::make_unique<MetalDevice>(options);
}

}  // namespace moeflux::device::metal
