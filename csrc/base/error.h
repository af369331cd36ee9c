// The typed errors of the core; the bindings map each to the Python class of the same name.
// Messages read "[room::What] what happened: expected X, found Y (file)".
#pragma once
#include <stdexcept>
#include <string>

namespace moeflux {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct FormatError : Error {  // a file or argument does not say what it must
  using Error::Error;
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

}  // namespace moeflux
