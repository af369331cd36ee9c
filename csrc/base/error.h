// The typed errors of the core; the bindings map each to the Python class of the same name.
// Messages read "[room::What] what happened: expected X, found Y (file)".
#pragma once
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "base/cat.h"

namespace moeflux {

struct Error : std::runtime_error {
  template <class... Parts>
  explicit Error(std::string_view text, const Parts&... more)
      : std::runtime_error(cat(text, more...)) {}
  std::optional<uint32_t> request;  // of a step: which of them is to blame, where one is
};
struct FormatError : Error {  // a file or argument does not say what it must
  using Error::Error;
};
struct NoKernelError : FormatError {  // a part of a model that no kernel of a device computes
  using FormatError::FormatError;
};
struct IoError : Error {  // the operating system could not read
  using Error::Error;
};
struct MemoryBudgetError : Error {  // no room within `memory`
  using Error::Error;
};
struct SessionError : Error {  // a request that a session cannot serve
  using Error::Error;
};
struct Interrupted : Error {  // another thread has ended the call
  using Error::Error;
};
struct GpuError : Error {  // a device could not do what it was asked
  using Error::Error;
};
struct NoDeviceError : GpuError {  // this machine has no such device
  using GpuError::GpuError;
};
struct LibraryCompileError : GpuError {  // with the compiler's text
  using GpuError::GpuError;
};
struct KernelNotFoundError : GpuError {
  using GpuError::GpuError;
};
struct PipelineError : GpuError {  // a kernel compiles but makes no pipeline
  using GpuError::GpuError;
};

// f(); an error of it names the request of a step that it is about.
template <class F>
auto blaming(uint32_t request, F&& f) {
  try {
    return f();
  } catch (Error& error) {
    error.request = request;
    throw;
  }
}

}  // namespace moeflux
