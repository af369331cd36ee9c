// Which buffers macOS keeps wired for the GPU. Left alone, it unwires memory about a second after
// the last work and wires it again, page by page, for the next: a chat pauses longer than that. So
// all buffers of a device are in one residency set (macOS 15), which is asked for again and again
// while the device is in use. Where there is none, nothing here does anything. Thread-safe. For .mm
// files only.
#pragma once
#import <Metal/Metal.h>

#include <chrono>
#include <memory>

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

  // Changes are taken up together, by the next used(): one by one they are dear.
  void add(id<MTLBuffer> buffer);
  void remove(id<MTLBuffer> buffer);  // before the last reference goes
  void settle();                      // what was removed is let go now
  void used();                        // before each command buffer
  void attach(id<MTLCommandQueue> queue);

 private:
  using Clock = std::chrono::steady_clock;

  void take_up() REQUIRES(mutex_);
  void beat();  // the thread that asks again

  base::Mutex mutex_;
  base::Condition changed_;
  Retained<id> set_ GUARDED_BY(mutex_);  // id<MTLResidencySet>; nil: none
  bool dirty_ GUARDED_BY(mutex_) = false, removed_ GUARDED_BY(mutex_) = false;
  bool closing_ GUARDED_BY(mutex_) = false;
  bool idle_ GUARDED_BY(mutex_) = true;  // not used for so long that memory may be unwired
  Clock::time_point used_ GUARDED_BY(mutex_);
  std::unique_ptr<base::Thread> thread_ GUARDED_BY(mutex_);  // from the first used() on
};

}  // namespace moeflux::device::metal
