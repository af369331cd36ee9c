// Fibers: flows of control with stacks of their own that one OS thread runs in turn. Belongs to
// that thread. A fiber that never comes to its end is simply started again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/host/context.h"

namespace moeflux::device::host {

class Fibers {
 public:
  using Body = void (*)(void*);

  Fibers();
  ~Fibers();
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  // Makes room for fibers [0, count). Throws std::bad_alloc.
  void reserve(uint32_t count);
  // The next resume() of `fiber` calls body(argument).
  void start(uint32_t fiber, Body body, void* argument);
  // Runs `fiber` until it suspends or its body ends.
  void resume(uint32_t fiber);
  // Called by the running fiber: goes back to resume().
  void suspend();
  // Thread sanitizer takes each fiber for a thread. Shifting which of them stands for index 0 keeps
  // it from taking threads of different threadgroups for the same one.
  void rotate();

 private:
  struct Fiber;

  static void entry();
  Fiber& at(uint32_t fiber);
  void release();

  std::unique_ptr<Fiber[]> fibers_;
  uint32_t count_ = 0;
  uint32_t first_ = 0;  // which stack stands for index 0
  std::byte* stacks_ = nullptr;
  Fiber* running_ = nullptr;
  Context caller_;
  // sanitizers' view of the caller
  [[maybe_unused]] void* caller_fake_stack_ = nullptr;
  [[maybe_unused]] const void* caller_stack_ = nullptr;
  [[maybe_unused]] size_t caller_stack_bytes_ = 0;
  [[maybe_unused]] void* caller_fiber_ = nullptr;
};

}  // namespace moeflux::device::host
