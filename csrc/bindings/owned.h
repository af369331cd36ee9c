// Owned: the only way from Python to a native object that has threads or locks.
#pragma once
#include <memory>

#include "base/error.h"
#include "base/process.h"
#include "bindings/gil.h"

namespace moeflux::bindings {

// Shares an object, and destroys it without the GIL. In a forked child every use throws Refused,
// and the object is left as it is.
template <class T, class Refused = SessionError>
class Owned {
 public:
  Owned() = default;
  explicit Owned(std::shared_ptr<T> object) {
    auto* kept = new std::shared_ptr<T>(std::move(object));
    object_ = {kept->get(), [kept, home = home_](T*) {
                 if (!home.is_current()) return;
                 if (PyGILState_Check() == 0) return delete kept;
                 unlocked([kept] { delete kept; });  // it may join its threads
               }};
  }

  const std::shared_ptr<T>& share() const {
    if (!home_.is_current())
      throw Refused(
          "[bindings::Owned] expected the process that loaded the model or opened the device, "
          "found a fork of it: load or open one there, or start processes by spawn");
    return object_;
  }
  T* operator->() const { return share().get(); }
  T& operator*() const { return *share(); }

 private:
  base::Process home_;
  std::shared_ptr<T> object_;
};

}  // namespace moeflux::bindings
