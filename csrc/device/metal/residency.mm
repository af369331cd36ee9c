#include "device/metal/residency.h"

#include "base/error.h"
#include "device/metal/sdk.h"

namespace moeflux::device::metal {
namespace {

// Well below the second after which memory is unwired; a request that finds all wired is cheap.
constexpr std::chrono::milliseconds kBeat{250};
// How long a pause may be: whoever comes back later waits once for the wiring.
constexpr std::chrono::minutes kKeep{3};

enum class Step { add, remove, commit, request, end, attach };

// A step of the set, where the build and the system know of such; nil: nothing.
void perform([[maybe_unused]] id object, [[maybe_unused]] Step step,
             [[maybe_unused]] id argument = nil) {
#if MOEFLUX_SDK_15
  if (@available(macOS 15, *)) {
    const auto set = static_cast<id<MTLResidencySet>>(object);
    switch (step) {
      case Step::add:
        return [set addAllocation:static_cast<id<MTLAllocation>>(argument)];
      case Step::remove:
        return [set removeAllocation:static_cast<id<MTLAllocation>>(argument)];
      case Step::commit:
        return [set commit];
      case Step::request:
        return [set requestResidency];
      case Step::end:
        return [set endResidency];
      case Step::attach:
        if (set) [static_cast<id<MTLCommandQueue>>(argument) addResidencySet:set];
        return;
    }
  }
#endif
}

Retained<id> make_set([[maybe_unused]] id<MTLDevice> device) {
#if MOEFLUX_SDK_15
  if (@available(macOS 15, *)) {
    const auto descriptor =
        Retained<MTLResidencySetDescriptor*>::adopt([MTLResidencySetDescriptor new]);
    NSError* error = nil;  // without a set all is as before macOS 15: slower after a pause
    return Retained<id>::adopt([device newResidencySetWithDescriptor:descriptor.get()
                                                               error:&error]);
  }
#endif
  return {};
}

}  // namespace

Residency::Residency(id<MTLDevice> device) : set_(make_set(device)) {}

Residency::~Residency() {
  std::unique_ptr<base::Thread> thread;
  {
    const base::Lock lock(mutex_);
    closing_ = true;
    changed_.notify_all();
    thread = std::move(thread_);
  }
  thread.reset();  // joins
  const base::Lock lock(mutex_);
  perform(set_.get(), Step::end);
}

void Residency::add(id<MTLBuffer> buffer) {
  const base::Lock lock(mutex_);
  perform(set_.get(), Step::add, buffer);
  dirty_ = true;
}

void Residency::remove(id<MTLBuffer> buffer) {
  const base::Lock lock(mutex_);
  perform(set_.get(), Step::remove, buffer);
  dirty_ = removed_ = true;
}

void Residency::attach(id<MTLCommandQueue> queue) {
  const base::Lock lock(mutex_);
  perform(set_.get(), Step::attach, queue);
}

void Residency::settle() {
  const base::Lock lock(mutex_);
  if (removed_) take_up();
}

void Residency::take_up() {
  if (!dirty_) return;
  perform(set_.get(), Step::commit);
  dirty_ = removed_ = false;
  if (!idle_) perform(set_.get(), Step::request);
}

void Residency::used() {
  const base::Lock lock(mutex_);
  if (!set_) return;
  take_up();
  used_ = Clock::now();
  if (idle_) {
    perform(set_.get(), Step::request);
    idle_ = false;
    changed_.notify_all();
  }
  if (thread_) return;
  try {
    thread_ = std::make_unique<base::Thread>("keeping GPU memory wired", [this] { beat(); });
  } catch (const Error&) {  // then memory is wired again after a pause
    return;
  }
}

void Residency::beat() {
  const base::Lock lock(mutex_);
  while (!closing_) {
    const Pool pool;
    if (idle_) {
      changed_.wait(mutex_);
    } else if (Clock::now() - used_ < kKeep) {
      changed_.wait_until(mutex_, Clock::now() + kBeat);
      perform(set_.get(), Step::request);
    } else {
      perform(set_.get(), Step::end);
      idle_ = true;
    }
  }
}

}  // namespace moeflux::device::metal
