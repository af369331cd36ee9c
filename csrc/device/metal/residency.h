// Which buffers macOS keeps wired for the GPU. Left alone, it unwires memory about a second after
// the last work and wires it again, page by page, for the next: a chat pauses longer than that. So
// all buffers of a device are in one residency set (macOS 15), which is asked for again and again
// while the device is in use. Where there is none, nothing here does anything. Thread-safe. For .mm
// files only.
//
// Calls of the set may last as long as memory takes to be wired. A thread makes them, in crowds,
// so that those who make buffers, give them back or compute do not wait for it.
#pragma once
#import <Metal/Metal.h>

#include <chrono>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "device/metal/retained.h"

namespace moeflux::device::metal {

class Residency {
 public:
  explicit Residency(id<MTLDevice> device);
  ~Residency();
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  // Changes are taken up soon. Until then the buffer is kept: memory that is not Metal's own goes
  // back to its owner when nothing wires it.
  void add(id<MTLBuffer> buffer);
  void remove(id<MTLBuffer> buffer);
  void settle();  // what was removed is let go now, unless memory is being wired
  void used();    // before each command buffer
  void attach(id<MTLCommandQueue> queue);

 private:
  using Clock = std::chrono::steady_clock;
  // How long a pause may be: whoever comes back later waits once for the wiring.
  static constexpr std::chrono::minutes kKeep{3};
  struct Change {
    Retained<id<MTLBuffer>> buffer;
    bool is_removal;
  };

  void change(id<MTLBuffer> buffer, bool is_removal);
  void beat();           // the thread
  bool wait_for_work();  // false: closing
  void take_up();        // all changes; by the thread, or when it has ended

  const Retained<id> set_;  // id<MTLResidencySet>; nil: none

  base::Mutex mutex_;
  base::Condition changed_, taken_up_;
  std::vector<Change> changes_ GUARDED_BY(mutex_);  // in their order
  size_t removals_ GUARDED_BY(mutex_) = 0;          // that have not been taken up
  bool closing_ GUARDED_BY(mutex_) = false;
  bool wired_ GUARDED_BY(mutex_) = false;  // asked for, until it has not been used for long
  bool hurry_ GUARDED_BY(mutex_) = false;  // somebody would rather not wait for a beat
  Clock::time_point used_ GUARDED_BY(mutex_) = Clock::now() - kKeep;
  std::unique_ptr<base::Thread> thread_;  // null: there is no set, or no thread for it
};

}  // namespace moeflux::device::metal
