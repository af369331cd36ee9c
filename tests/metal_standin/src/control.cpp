#include "control.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

#include "shaders.h"

namespace metal_standin {
namespace {

struct State {
  std::mutex mutex;
  std::map<Fault, int> faults;  // calls until the one that fails
  Schedule schedule;
  std::condition_variable schedule_changed;
  std::mt19937_64 random{Schedule{}.seed};
  CompileOptions options;
  std::vector<std::string> violations;
  Residency residency;
  std::map<std::string, Kernel> kernels;  // entries are replaced, never erased

  State() {
    for (Kernel& kernel : shader_kernels()) kernels[kernel.info->name] = std::move(kernel);
  }
};

State& state() {  // never destroyed: threads of queues may outlive main
  static State& state = *new State;
  return state;
}

std::atomic<long> objects{0};

}  // namespace

void inject(Fault fault, int after) {
  const std::lock_guard lock(state().mutex);
  state().faults[fault] = after;
}

void clear_faults() {
  const std::lock_guard lock(state().mutex);
  state().faults.clear();
}

bool fails(Fault fault) {
  const std::lock_guard lock(state().mutex);
  const auto found = state().faults.find(fault);
  if (found == state().faults.end() || found->second-- > 0) return false;
  state().faults.erase(found);
  return true;
}

void record_violation(const std::string& text) {
  const std::lock_guard lock(state().mutex);
  state().violations.push_back("Metal validation: " + text);
}

void invalid(const std::string& text) {
  record_violation(text);
  throw std::logic_error("Metal validation: " + text);
}

std::vector<std::string> take_violations() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().violations, {});
}

void set_schedule(const Schedule& schedule) {
  const std::lock_guard lock(state().mutex);
  state().schedule = schedule;
  state().random.seed(schedule.seed);
  state().schedule_changed.notify_all();
}

uint64_t random_below(uint64_t n) {
  const std::lock_guard lock(state().mutex);
  return state().random() % n;
}

void random_delay() {
  uint64_t delay_us;
  {
    const std::lock_guard lock(state().mutex);
    delay_us = state().random() % (uint64_t(state().schedule.max_delay_us) + 1);
  }
  std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
}

uint32_t queue_timeout_ms() {
  const std::lock_guard lock(state().mutex);
  return state().schedule.queue_timeout_ms;
}

bool tells_times() {
  const std::lock_guard lock(state().mutex);
  return state().schedule.tells_times;
}

CompileOptions compile_options() {
  const std::lock_guard lock(state().mutex);
  return state().options;
}

void set_compile_options(const CompileOptions& options) {
  const std::lock_guard lock(state().mutex);
  state().options = options;
}

void count_residency(const Residency& change) {
  const std::lock_guard lock(state().mutex);
  state().residency.requests += change.requests;
  state().residency.commits += change.commits;
  state().residency.members += change.members;
}

void hold_request() {
  std::unique_lock lock(state().mutex);
  state().residency.held++;
  state().schedule_changed.wait(lock, [] { return !state().schedule.hold_requests; });
  state().residency.held--;
}

Residency residency() {
  const std::lock_guard lock(state().mutex);
  return state().residency;
}

void register_kernel(Kernel kernel) {
  const std::lock_guard lock(state().mutex);
  state().kernels[kernel.info->name] = std::move(kernel);
}

const Kernel* find_kernel(const std::string& name) {
  const std::lock_guard lock(state().mutex);
  const auto found = state().kernels.find(name);
  return found == state().kernels.end() ? nullptr : &found->second;
}

void count_object(long change) {
  objects += change;
}
long live_objects() {
  return objects;
}

}  // namespace metal_standin
