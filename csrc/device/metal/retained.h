// Manual reference counting in C++ terms. For .mm files only.
#pragma once
#import <Foundation/Foundation.h>

#include <utility>

namespace moeflux::device::metal {

// A counted reference; T is an object pointer type, such as id<MTLBuffer>.
template <class T>
class Retained {
 public:
  Retained() = default;
  // Takes over the reference that new..., alloc, copy and MTLCreate... return.
  static Retained adopt(T object) {
    Retained retained;
    retained.object_ = object;
    return retained;
  }
  // Adds a reference, to what everything else returns.
  static Retained share(T object) { return adopt([object retain]); }

  Retained(const Retained& other) : object_([other.object_ retain]) {}
  Retained(Retained&& other) noexcept : object_(std::exchange(other.object_, nil)) {}
  Retained& operator=(Retained other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Retained() { [object_ release]; }

  T get() const { return object_; }
  explicit operator bool() const { return object_ != nil; }

 private:
  T object_ = nil;
};

// An autorelease pool that an exception drains too: @autoreleasepool leaves that to a pool further
// out, and a thread of Python's has none.
class Pool {
 public:
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { [pool_ drain]; }

 private:
  NSAutoreleasePool* pool_ = [[NSAutoreleasePool alloc] init];
};

}  // namespace moeflux::device::metal
