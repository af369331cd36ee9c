#include "device/metal/residency.h"

#include "base/error.h"
#include "device/metal/sdk.h"

namespace moeflux::device::metal {
namespace {

// Well below the second after which memory is unwired; a request that finds all wired is cheap.
constexpr std::chrono::milliseconds kBeat{250};
constexpr std::chrono::milliseconds kPatience{20};  // of who would have memory back

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

Residency::Residency(id<MTLDevice> device) : set_(make_set(device)) {
  if (!set_) return;
  try {
    thread_ = std::make_unique<base::Thread>("keeping GPU memory wired", [this] { beat(); });
  } catch (const Error&) {  // then memory is wired again after a pause
  }
}

Residency::~Residency() {
  if (!thread_) return;
  {
    const base::Lock lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  thread_.reset();  // joins
  const Pool pool;
  take_up();
  perform(set_.get(), Step::end);
}

void Residency::add(id<MTLBuffer> buffer) {
  change(buffer, false);
}

void Residency::remove(id<MTLBuffer> buffer) {
  change(buffer, true);
}

void Residency::change(id<MTLBuffer> buffer, bool is_removal) {
  if (!thread_) return;
  const base::Lock lock(mutex_);
  changes_.push_back({Retained<id<MTLBuffer>>::share(buffer), is_removal});
  removals_ += is_removal;
  if (changes_.size() == 1) changed_.notify_all();
}

void Residency::attach(id<MTLCommandQueue> queue) {
  if (thread_) perform(set_.get(), Step::attach, queue);
}

void Residency::settle() {
  if (!thread_) return;
  const base::Lock lock(mutex_);
  if (removals_ == 0) return;
  hurry_ = true;
  changed_.notify_all();
  const auto end = Clock::now() + kPatience;
  while (removals_ > 0 && taken_up_.wait_until(mutex_, end)) {
  }
}

void Residency::used() {
  if (!thread_) return;
  const base::Lock lock(mutex_);
  used_ = Clock::now();
  if (wired_ || hurry_) return;
  hurry_ = true;
  changed_.notify_all();
}

bool Residency::wait_for_work() {
  const base::Lock lock(mutex_);
  while (!closing_ && !hurry_ && !wired_ && changes_.empty()) changed_.wait(mutex_);
  // Changes come in crowds, and what is wired is asked for again after a beat.
  const auto end = Clock::now() + kBeat;
  while (!closing_ && !hurry_ && changed_.wait_until(mutex_, end)) {
  }
  hurry_ = false;
  return !closing_;
}

void Residency::take_up() {
  std::vector<Change> changes;
  {
    const base::Lock lock(mutex_);
    changes.swap(changes_);
  }
  if (changes.empty()) return;
  size_t removals = 0;
  for (const auto& [buffer, is_removal] : changes) {
    perform(set_.get(), is_removal ? Step::remove : Step::add, buffer.get());
    removals += is_removal;
  }
  perform(set_.get(), Step::commit);
  changes.clear();
  const base::Lock lock(mutex_);
  removals_ -= removals;
  taken_up_.notify_all();
}

void Residency::beat() {
  while (wait_for_work()) {
    const Pool pool;
    take_up();
    bool was_wired = false, in_use = false;
    {
      const base::Lock lock(mutex_);
      was_wired = wired_;
      wired_ = in_use = Clock::now() - used_ < kKeep;
    }
    if (in_use) {
      perform(set_.get(), Step::request);
    } else if (was_wired) {
      perform(set_.get(), Step::end);
    }
  }
}

}  // namespace moeflux::device::metal
