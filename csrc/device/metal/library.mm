#include "device/metal/library.h"

#include <algorithm>

#include "base/error.h"
#include "device/lookup.h"
#include "device/metal/compile.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {
namespace {

// What the kernels are written for: lanes of a simdgroup on every Apple GPU.
constexpr NSUInteger kSimdWidth = 32;

Retained<id<MTLFunction>> specialise(id<MTLLibrary> library, const KernelInfo& info,
                                     std::span<const uint64_t> constants) {
  const auto name = to_nsstring(info.name);
  if (constants.empty()) {
    auto function = Retained<id<MTLFunction>>::adopt([library newFunctionWithName:name.get()]);
    if (!function)
      throw KernelNotFoundError("[device::Metal] the compiled library has no kernel ", info.name);
    return function;
  }
  auto values = Retained<MTLFunctionConstantValues*>::adopt([MTLFunctionConstantValues new]);
  for (size_t i = 0; i < constants.size(); i++) {
    const auto value = uint32_t(constants[i]);
    [values.get() setConstantValue:&value type:MTLDataTypeUInt atIndex:info.constants[i].index];
  }
  NSError* error = nil;
  auto function = Retained<id<MTLFunction>>::adopt([library newFunctionWithName:name.get()
                                                                 constantValues:values.get()
                                                                          error:&error]);
  if (!function)
    throw PipelineError("[device::Metal] cannot specialise ", info.name, ": ", describe(error));
  return function;
}

// Every threadgroup that the binding table calls legal must run, so the compiler is told the
// largest of them; left alone, it may trade threads for registers.
NSUInteger largest_threadgroup(const KernelInfo& info, const Limits& limits) {
  if (info.threadgroups == Threadgroups::exact) return info.exact_threads;
  return std::min(info.largest_threads, limits.max_threads);
}

}  // namespace

std::shared_ptr<Pipeline> Library::pipeline(std::string_view kernel, const Constants& constants) {
  const KernelInfo& info = find_info(kernels_, kernel);
  std::vector<uint64_t> values = constant_values(info, constants);
  const base::Lock lock(mutex_);
  const Key key(info.name, values);
  if (const auto found = pipelines_.find(key); found != pipelines_.end()) return found->second;
  auto pipeline = compile(info, std::move(values));
  pipelines_.emplace(key, pipeline);
  return pipeline;
}

size_t Library::pipeline_count() const {
  const base::Lock lock(mutex_);
  return pipelines_.size();
}

uint32_t Library::untold_threads(std::string_view kernel) {
  const Pool pool;
  const KernelInfo& info = find_info(kernels_, kernel);
  const std::vector<uint64_t> constants = constant_values(info, {});
  const base::Lock lock(mutex_);
  return uint32_t(make_state(info, constants, 0).get().maxTotalThreadsPerThreadgroup);
}

Retained<id<MTLComputePipelineState>> Library::make_state(const KernelInfo& info,
                                                          std::span<const uint64_t> constants,
                                                          NSUInteger threads) {
  id<MTLDevice> device = context_->device.get();
  if (!library_) library_ = compile_library(device, source_);
  const auto function = specialise(library_.get(), info, constants);
  auto state = metal::make_state(device, function.get(), info.name, threads);
  if (const NSUInteger width = state.get().threadExecutionWidth; width != kSimdWidth) {
    throw PipelineError("[device::Metal] ", info.name,
                        " runs in simdgroups of a width that the kernels do not know: expected ",
                        kSimdWidth, ", found ", width);
  }
  return state;
}

std::shared_ptr<MetalPipeline> Library::compile(const KernelInfo& info,
                                                std::vector<uint64_t> constants) {
  const Pool pool;
  auto state = make_state(info, constants, largest_threadgroup(info, context_->limits));
  return std::make_shared<MetalPipeline>(context_, info, std::move(constants), std::move(state));
}

}  // namespace moeflux::device::metal
