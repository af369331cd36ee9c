#include "device/host/scheduler.h"

#include <utility>

#include "base/error.h"
#include "device/host/sanitizers.h"

namespace moeflux::device::host {

struct Scheduler::Lane {
  Scheduler* scheduler;
  Thread thread;
  State state;
  Site site;
  Collective function;
  const void* in;
  void* out;
};

namespace {
thread_local Scheduler* active = nullptr;

class Activation {
 public:
  explicit Activation(Scheduler& scheduler) { active = &scheduler; }
  ~Activation() { active = nullptr; }
};

// Only kernels that the front end saw to synchronise run as fibers.
Scheduler& active_at(Site site) {
  if (!active) throw GpuError("synchronises unexpectedly (", site.file, ":", site.line, ")");
  return *active;
}

using State = Scheduler::State;

std::string describe(State state, Site site) {
  if (state == State::done) return "has returned";
  const char* what = state == State::at_barrier             ? "threadgroup_barrier"
                     : state == State::at_simdgroup_barrier ? "simdgroup_barrier"
                                                            : "a SIMD-group function";
  return cat("waits at ", what, " (", site.file, ":", site.line, ")");
}
}  // namespace

Scheduler::Scheduler() = default;
Scheduler::~Scheduler() = default;

Thread thread_at(const Group& group, uint32_t index) {
  const Size in_group = {index % group.threads[0], index / group.threads[0] % group.threads[1],
                         index / group.threads[0] / group.threads[1]};
  Size in_grid;
  for (int d = 0; d < 3; ++d) in_grid[d] = group.position[d] * group.full[d] + in_group[d];
  return {in_grid, in_group, index};
}

void Scheduler::prepare(const Group& group) {
  count_ = group.threads[0] * group.threads[1] * group.threads[2];
  const uint32_t full = group.full[0] * group.full[1] * group.full[2];
  if (full > capacity_) {
    fibers_.reserve(full);
    lanes_ = std::make_unique<Lane[]>(full);
    capacity_ = full;
  }
  if (kTsan) fibers_.rotate();
  tsan_release(&start_sync_);
  for (uint32_t i = 0; i < count_; ++i) {
    lanes_[i] = {this, thread_at(group, i), State::ready, {}, nullptr, nullptr, nullptr};
    fibers_.start(i, &Scheduler::thread_body, &lanes_[i]);
  }
}

void Scheduler::thread_body(void* argument) {
  Lane& lane = *static_cast<Lane*>(argument);
  Scheduler& self = *lane.scheduler;
  tsan_acquire(&self.start_sync_);
  self.kernel_->run(lane.thread, *self.group_);
  lane.state = State::done;
  tsan_release(&self.end_sync_);
}

void Scheduler::join() {
  tsan_acquire(&end_sync_);
}

void Scheduler::run(const Kernel& kernel, const Group& group) {
  kernel_ = &kernel;
  group_ = &group;
  prepare(group);
  const Activation activation(*this);
  const uint32_t simdgroups = (count_ + kSimdWidth - 1) / kSimdWidth;
  uint8_t order[kSimdWidth];  // 1024 threads are 32 SIMD groups
  for (uint32_t i = 0; i < simdgroups; ++i) order[i] = static_cast<uint8_t>(i);
  do {
    shuffle(order, simdgroups);
    for (uint32_t i = 0; i < simdgroups; ++i) {
      const uint32_t first = order[i] * kSimdWidth;
      run_simdgroup(first, count_ - first < kSimdWidth ? count_ - first : kSimdWidth);
    }
  } while (pass_barrier());
}

// Until all its threads have returned or wait at a threadgroup barrier.
void Scheduler::run_simdgroup(uint32_t first, uint32_t count) {
  uint8_t order[kSimdWidth];
  for (uint32_t i = 0; i < count; ++i) order[i] = static_cast<uint8_t>(i);
  for (;;) {
    shuffle(order, count);
    for (uint32_t i = 0; i < count; ++i) {
      running_ = first + order[i];
      fibers_.resume(running_);
    }
    check_uniform(first, count);
    const State state = lanes_[first].state;
    if (state == State::at_collective) {
      Exchange all = {};
      all.lanes = count;
      for (uint32_t i = 0; i < count; ++i) {
        all.in[i] = lanes_[first + i].in;
        all.out[i] = lanes_[first + i].out;
      }
      lanes_[first].function(all);
    } else if (state == State::at_simdgroup_barrier) {
      ++simdgroup_barriers_[first / kSimdWidth];
    } else {
      return;
    }
  }
}

// True when all threads wait at one barrier, which then opens; false when all have returned.
bool Scheduler::pass_barrier() {
  for (uint32_t first = kSimdWidth; first < count_; first += kSimdWidth) {
    const Lane &one = lanes_[0], &other = lanes_[first];
    if (one.state != other.state || (one.state != State::done && one.site.line != other.site.line))
      diverged(one, other);
  }
  ++barriers_;
  return lanes_[0].state == State::at_barrier;
}

void Scheduler::check_uniform(uint32_t first, uint32_t count) const {
  const Lane& one = lanes_[first];
  for (uint32_t i = first + 1; i < first + count; ++i) {
    const Lane& other = lanes_[i];
    if (one.state != other.state ||
        (one.state != State::done &&
         (one.site.line != other.site.line || one.function != other.function)))
      diverged(one, other);
  }
}

void Scheduler::diverged(const Lane& one, const Lane& other) const {
  throw GpuError("threads diverge: thread ", one.thread.index, " ", describe(one.state, one.site),
                 ", thread ", other.thread.index, " ", describe(other.state, other.site));
}

void Scheduler::stop(State state, Site site) {
  const uint32_t index = running_, simdgroup = index / kSimdWidth;
  Lane& lane = lanes_[index];
  lane.state = state;
  lane.site = site;
  lane.function = nullptr;
  char* sync = state == State::at_barrier
                   ? &barrier_sync_[barriers_ % 2]
                   : &simdgroup_sync_[simdgroup][simdgroup_barriers_[simdgroup] % 2];
  tsan_release(sync);
  tsan_release(&end_sync_);  // this may be its end, if others diverge
  fibers_.suspend();
  tsan_acquire(sync);
}

void Scheduler::exchange(Collective function, const void* in, void* out, Site site) {
  Lane& lane = lanes_[running_];
  lane.state = State::at_collective;
  lane.site = site;
  lane.function = function;
  lane.in = in;
  lane.out = out;
  tsan_release(&end_sync_);
  fibers_.suspend();
}

void Scheduler::shuffle(uint8_t* order, uint32_t count) {
  if (random_ == 0) return;
  for (uint32_t i = count; i > 1; --i) {
    random_ = random_ * 1664525u + 1013904223u;  // Numerical Recipes' generator
    std::swap(order[i - 1], order[(random_ >> 8) % i]);
  }
}

// -- what shaders call

void barrier(Site site) {
  active_at(site).stop(State::at_barrier, site);
}
void simdgroup_barrier(Site site) {
  active_at(site).stop(State::at_simdgroup_barrier, site);
}
void collective(Collective function, const void* in, void* out, Site site) {
  active_at(site).exchange(function, in, out, site);
}
uint32_t lane(Site site) {
  return active_at(site).lane();
}

}  // namespace moeflux::device::host
