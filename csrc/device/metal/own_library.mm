#include "device/metal/own_library.h"

#include "base/error.h"
#include "device/metal/compile.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {

MetalOwnLibrary::MetalOwnLibrary(std::shared_ptr<const Context> context, std::string_view source)
    : context_(std::move(context)), library_(compile_library(context_->device.get(), source)) {}

std::shared_ptr<Pipeline> MetalOwnLibrary::pipeline(std::string_view kernel) {
  const Pool pool;
  const base::Lock lock(mutex_);
  auto found = kernels_.find(kernel);
  if (found == kernels_.end()) found = kernels_.emplace(kernel, make(kernel)).first;
  return {shared_from_this(), found->second->pipeline.get()};
}

std::unique_ptr<MetalOwnLibrary::Kernel> MetalOwnLibrary::make(std::string_view name) {
  const auto text = to_nsstring(name);
  const auto function = Retained<id<MTLFunction>>::adopt(
      text ? [library_.get() newFunctionWithName:text.get()] : nil);
  if (!function || function.get().functionType != MTLFunctionTypeKernel)
    throw KernelNotFoundError("[device::Metal] the source has no kernel '", name, "'");
  auto kernel = std::make_unique<Kernel>();
  kernel->name = name;
  kernel->info.name = kernel->name.c_str();
  kernel->info.file = "";
  kernel->info.dimensions = 3;
  kernel->info.is_own = true;
  kernel->pipeline =
      std::make_unique<MetalPipeline>(context_, kernel->info, std::vector<uint64_t>{},
                                      make_state(context_->device.get(), function.get(), name, 0));
  return kernel;
}

}  // namespace moeflux::device::metal
