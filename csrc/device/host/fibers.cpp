#include "device/host/fibers.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "device/host/sanitizers.h"

namespace moeflux::device::host {

namespace {
constexpr size_t kGuardBytes = 16384;  // a page of any machine we know
// Shaders keep big arrays in threadgroup memory; sanitizers' frames are several times larger.
constexpr size_t kFiberStackBytes = (kTsan || kAsan ? 256 : 64) * 1024;
constexpr size_t kStrideBytes = kGuardBytes + kFiberStackBytes;

thread_local Fibers* starting = nullptr;
}  // namespace

struct Fibers::Fiber {
  Context context;
  std::byte* stack;  // lowest byte
  Body body;
  void* argument;
  void* fake_stack;  // address sanitizer's
  void* handle;      // thread sanitizer's
  bool finished;
};

Fibers::Fibers() = default;

Fibers::~Fibers() {
  release();
}

void Fibers::release() {
  if (!stacks_) return;
#if defined(MOEFLUX_TSAN_FIBERS)
  for (uint32_t i = 0; i < count_; ++i) __tsan_destroy_fiber(fibers_[i].handle);
#endif
  munmap(stacks_, count_ * kStrideBytes);
  stacks_ = nullptr;
  count_ = 0;
}

void Fibers::reserve(uint32_t count) {
  if (count <= count_) return;
  release();
  void* memory = mmap(nullptr, count * kStrideBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stacks_ = static_cast<std::byte*>(memory);
  fibers_ = std::make_unique<Fiber[]>(count);
  count_ = count;
  first_ = 0;
  for (uint32_t i = 0; i < count; ++i) {
    std::byte* guard = stacks_ + i * kStrideBytes;
    mprotect(guard, kGuardBytes, PROT_NONE);
    fibers_[i].stack = guard + kGuardBytes;
#if defined(MOEFLUX_TSAN_FIBERS)
    fibers_[i].handle = __tsan_create_fiber(0);
#endif
  }
}

Fibers::Fiber& Fibers::at(uint32_t fiber) {
  return fibers_[(fiber + first_) % count_];
}

void Fibers::rotate() {
  first_ = (first_ + 1) % count_;
}

void Fibers::start(uint32_t fiber, Body body, void* argument) {
  Fiber& f = at(fiber);
  f.body = body;
  f.argument = argument;
  f.finished = false;
  f.fake_stack = nullptr;
  // Stack tops at the same offset in a page would share one set of the cache (measured: 2x).
  const size_t stagger = (fiber * 5 % 64) * 64;
  make_context(f.context, f.stack, kFiberStackBytes - stagger, &Fibers::entry);
}

void Fibers::resume(uint32_t fiber) {
  Fiber& f = at(fiber);
  running_ = &f;
  starting = this;
#if defined(MOEFLUX_ASAN)
  __sanitizer_start_switch_fiber(&caller_fake_stack_, f.stack, kFiberStackBytes);
#endif
#if defined(MOEFLUX_TSAN_FIBERS)
  caller_fiber_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(f.handle, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(caller_, f.context);
#if defined(MOEFLUX_ASAN)
  __sanitizer_finish_switch_fiber(caller_fake_stack_, nullptr, nullptr);
#endif
}

void Fibers::suspend() {
  Fiber& f = *running_;
#if defined(MOEFLUX_ASAN)
  __sanitizer_start_switch_fiber(f.finished ? nullptr : &f.fake_stack, caller_stack_,
                                 caller_stack_bytes_);
#endif
#if defined(MOEFLUX_TSAN_FIBERS)
  __tsan_switch_to_fiber(caller_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(f.context, caller_);
#if defined(MOEFLUX_ASAN)
  __sanitizer_finish_switch_fiber(f.fake_stack, &caller_stack_, &caller_stack_bytes_);
#endif
}

void Fibers::entry() {
  Fibers& self = *starting;
  Fiber& f = *self.running_;
#if defined(MOEFLUX_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &self.caller_stack_, &self.caller_stack_bytes_);
#endif
  f.body(f.argument);
  f.finished = true;
  self.suspend();
  std::abort();  // a finished fiber is never resumed
}

}  // namespace moeflux::device::host
