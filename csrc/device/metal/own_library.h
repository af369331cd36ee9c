// Kernels of somebody's own source. Whatever it is, the process lives on: the compiler is another one,
// and what its text makes wrong is an error. For .mm files only.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "device/metal/library.h"

namespace moeflux::device::metal {

class MetalOwnLibrary final : public OwnLibrary,
                              public std::enable_shared_from_this<MetalOwnLibrary> {
 public:
  MetalOwnLibrary(std::shared_ptr<const Context> context, std::string_view source);

  std::shared_ptr<Pipeline> pipeline(std::string_view kernel) override;

 private:
  struct Kernel {
    std::string name;
    KernelInfo info;
    std::unique_ptr<MetalPipeline> pipeline;
  };
  std::unique_ptr<Kernel> make(std::string_view name);

  const std::shared_ptr<const Context> context_;
  const Retained<id<MTLLibrary>> library_;
  base::Mutex mutex_;
  std::map<std::string, std::unique_ptr<Kernel>, std::less<>> kernels_ GUARDED_BY(mutex_);
};

}  // namespace moeflux::device::metal
