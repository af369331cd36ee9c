// What Python holds of a model: handles that keep alive what they need, and the lock that makes an
// engine one thread at a time.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bindings/owned.h"
#include "device/device.h"
#include "engine/engine.h"

namespace moeflux::bindings {

struct NativeModel {
  std::unique_ptr<base::Account> account;
  std::shared_ptr<base::Arena> arena;
  std::shared_ptr<model::Weights> weights = std::make_shared<model::Weights>();  // in the arena
  Owned<engine::Engine> engine;
  std::string precision, kv;
  std::shared_ptr<device::Device> device;  // null: the CPU
  std::string device_kind = "cpu", device_name = "cpu";
  std::timed_mutex mutex;
  std::atomic<std::thread::id> turn_of{};  // the thread that has the mutex
  std::atomic<uint64_t> aborts{0};         // calls of abort() so far
  std::optional<uint64_t>
      aborts_before;  // those before the call whose turn it is; none: it goes on

  // A descriptor that the next call of the engine writes a byte to, once it does without the GIL:
  // whom that wakes runs beside the engine, not before it. -1: none.
  std::atomic<int> bell{-1};

  void ring() {
    const int fd = bell.exchange(-1);
    if (fd >= 0 && ::write(fd, "", 1) < 0) return;  // full: whoever reads it is awake
  }

  // Throws Interrupted when abort() was called since it had been called `before` times.
  void check_aborts(std::optional<uint64_t> before) const {
    if (before && *before != aborts)
      throw Interrupted("[bindings::Model] abort() has ended the call; its sessions are as before");
  }
  void poll() const {
    check_aborts(aborts_before);
    poll_signals();
  }
};

struct NativeSession {
  std::shared_ptr<NativeModel> model;
  Owned<engine::Session> session;
};

struct NativeSnapshot {
  std::shared_ptr<NativeModel> model;
  Owned<engine::Session::Snapshot> snapshot;
};

// A snapshot that is being read from somewhere: no session has seen it.
struct NativeDraft {
  std::shared_ptr<NativeModel> model;
  Owned<engine::Session::Snapshot> snapshot;
};

struct NativeRouting {
  std::shared_ptr<NativeModel> model;
  Owned<engine::RoutingOverride> routing;
};

// A thread's turn with a model's engine. Waiting for it sees signals, and abort() where the call
// ends by it.
class Turn {
 public:
  Turn(NativeModel& model, std::optional<uint64_t> aborts_before) : model_(model) {
    if (model.turn_of.load() == std::this_thread::get_id())
      throw SessionError(
          "[bindings::Turn] expected a model that is at rest, found a signal handler that uses it "
          "within a call that it interrupts");
    while (!model.mutex.try_lock_for(std::chrono::milliseconds(50))) {
      model.check_aborts(aborts_before);
      poll_signals();
    }
    model.turn_of = std::this_thread::get_id();
    model.aborts_before = aborts_before;
  }
  ~Turn() {
    model_.turn_of = std::thread::id();
    model_.mutex.unlock();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  NativeModel& model_;
};

// f(engine) without the GIL, in this thread's turn. With `aborts_before` abort() ends it.
template <class F>
auto locked(NativeModel& model, F&& f, std::optional<uint64_t> aborts_before = {}) {
  check_signals();  // first: a handler may fork, and the child is refused below
  engine::Engine& engine = *model.engine;
  const NoGil no_gil;
  model.ring();
  const Turn turn(model, aborts_before);
  model.check_aborts(aborts_before);
  return f(engine);
}

// Appends each item's token ids to its session, in common passes. An item is (NativeSession, ids
// uint32, NativeRouting or None, the position that it counts tokens from). Gives a dict a item:
// "logits" and what `capture` names (session.py has the shapes). An abort() after the first
// `aborts_before` ones ends it; none: one after its begin. `logits` is "none", "last" or "all" of
// them. An item that `samples` has one for gives "token", "logprob" and "top" in place of logits
// (native_sampler.h). Gives (the dicts, what the step took: "hits", "misses", "bytes_read",
// "wait_seconds").
pybind11::tuple step_batch(NativeModel& model, const pybind11::list& items,
                           const std::string& logits, const std::vector<std::string>& capture,
                           std::optional<uint64_t> aborts_before,
                           const std::optional<pybind11::list>& samples);

// Appends an item's token ids and gives (logprobs float32 (n), greedy bool (n), ids uint32 (n, top)
// and logprobs float32 (n, top) of the most probable tokens, what the step took).
// With `following`, a token that comes after them, they have a row more.
pybind11::tuple score(NativeModel& model, const pybind11::tuple& item, uint32_t top,
                      std::optional<uint32_t> following);

// mask uint8 (layers, experts) or None; forced int32 (tokens, layers, top_k) or None.
// `and_session`: only where a new session finds room beside it.
NativeRouting make_routing(const std::shared_ptr<NativeModel>& model, uint32_t top_k,
                           const pybind11::object& mask, const pybind11::object& forced,
                           bool repeat, const std::string& name, bool and_session);

// How the bytes of a snapshot of so many tokens lie, "nbytes" in all: what must be equal for one
// model's to be another's. And the model's "context" and "vocab".
pybind11::dict snapshot_form(const NativeModel& model, uint32_t positions);

}  // namespace moeflux::bindings
