// Scheduler: runs the threads of one threadgroup, each as a fiber, and lets them meet at barriers
// and SIMD-group functions as a GPU does. Reports when they do not all arrive. One OS thread's.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "device/host/fibers.h"
#include "device/host/kernel.h"

namespace moeflux::device::host {

class Scheduler {
 public:
  Scheduler();
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Starts the sequence of schedules. 0: SIMD groups and threads in order; else a random order at
  // each step.
  void seed(uint32_t seed) { random_ = seed; }
  // Runs one threadgroup to its end. Throws GpuError when its threads diverge.
  void run(const Kernel& kernel, const Group& group);
  // Thread sanitizer: what all threads did comes before what the caller does next.
  void join();

  // For the calls that a shader makes (kernel.h), in the running thread.
  enum class State : uint8_t { ready, at_collective, at_simdgroup_barrier, at_barrier, done };
  void stop(State state, Site site);
  void exchange(Collective function, const void* in, void* out, Site site);
  uint32_t lane() const { return running_ % kSimdWidth; }

 private:
  struct Lane;

  static void thread_body(void* lane);
  void prepare(const Group& group);
  void run_simdgroup(uint32_t first, uint32_t count);
  bool pass_barrier();
  void check_uniform(uint32_t first, uint32_t count) const;
  void shuffle(uint8_t* order, uint32_t count);
  [[noreturn]] void diverged(const Lane& one, const Lane& other) const;

  Fibers fibers_;
  std::unique_ptr<Lane[]> lanes_;
  uint32_t capacity_ = 0;  // of lanes_
  uint32_t count_ = 0;     // threads of this threadgroup
  uint32_t running_ = 0;   // index of the running thread
  uint32_t random_ = 0;
  const Kernel* kernel_ = nullptr;
  const Group* group_ = nullptr;
  // Thread sanitizer orders what happens before a barrier and after it by these objects. Two in
  // turn: a thread that is already at the next barrier must not order one that is still leaving.
  char barrier_sync_[2] = {};
  uint32_t barriers_ = 0;
  char simdgroup_sync_[kSimdWidth][2] = {};
  uint32_t simdgroup_barriers_[kSimdWidth] = {};
  char start_sync_ = 0, end_sync_ = 0;
};

// Fills in the positions of thread `index` of a threadgroup.
Thread thread_at(const Group& group, uint32_t index);

}  // namespace moeflux::device::host
