// The compiled shader library and the pipelines made of it, each on first request. Thread-safe.
// For .mm files only.
#pragma once
#import <Metal/Metal.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "device/device.h"
#include "device/metal/context.h"
#include "device/metal/options.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

class MetalPipeline final : public Pipeline {
 public:
  // `info` must outlive it.
  MetalPipeline(std::shared_ptr<const Context> context, const KernelInfo& info,
                std::vector<uint64_t> constants, Retained<id<MTLComputePipelineState>> state)
      : context_(std::move(context)),
        info_(info),
        constants_(std::move(constants)),
        state_(std::move(state)) {}

  const KernelInfo& info() const override { return info_; }
  std::span<const uint64_t> constants() const override { return constants_; }
  uint32_t max_threads() const override {
    return uint32_t(state_.get().maxTotalThreadsPerThreadgroup);
  }

  id<MTLComputePipelineState> get() const { return state_.get(); }
  bool belongs_to(const Context& context) const { return context_.get() == &context; }

 private:
  const std::shared_ptr<const Context> context_;
  const KernelInfo& info_;
  const std::vector<uint64_t> constants_;
  const Retained<id<MTLComputePipelineState>> state_;
};

class Library {
 public:
  Library(std::shared_ptr<const Context> context, const Options& options)
      : context_(std::move(context)), source_(options.source), kernels_(options.kernels) {}

  // See Device::pipeline.
  std::shared_ptr<Pipeline> pipeline(std::string_view kernel, const Constants& constants);
  size_t pipeline_count() const;
  uint32_t untold_threads(std::string_view kernel);  // see Device

 private:
  using Key = std::pair<std::string_view, std::vector<uint64_t>>;  // name, all constants

  std::shared_ptr<MetalPipeline> compile(const KernelInfo& info, std::vector<uint64_t> constants)
      REQUIRES(mutex_);
  // Told of so many threads a threadgroup; 0: of none.
  Retained<id<MTLComputePipelineState>> make_state(const KernelInfo& info,
                                                   std::span<const uint64_t> constants,
                                                   NSUInteger threads) REQUIRES(mutex_);

  const std::shared_ptr<const Context> context_;
  const std::string_view source_;
  const std::span<const KernelInfo> kernels_;

  mutable base::Mutex mutex_;  // held while Metal compiles
  Retained<id<MTLLibrary>> library_ GUARDED_BY(mutex_);
  std::map<Key, std::shared_ptr<MetalPipeline>> pipelines_ GUARDED_BY(mutex_);
};

}  // namespace moeflux::device::metal
