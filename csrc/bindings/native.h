// What Python holds of a model: handles that keep alive what they need, and the lock that makes an
// engine one thread at a time.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bindings/unlocked.h"
#include "engine/engine.h"

namespace moeflux::bindings {

struct NativeModel {
  std::unique_ptr<base::Account> account;
  std::shared_ptr<base::Arena> arena;
  std::shared_ptr<model::Weights> weights = std::make_shared<model::Weights>();  // in the arena
  std::unique_ptr<engine::Engine> engine;
  std::string precision;
  std::string device_kind = "cpu", device_name = "cpu";
  std::mutex mutex;
};

struct NativeSession {
  std::shared_ptr<NativeModel> model;
  std::shared_ptr<engine::Session> session;
};

struct NativeSnapshot {
  std::shared_ptr<NativeModel> model;
  std::shared_ptr<engine::Session::Snapshot> snapshot;
};

struct NativeRouting {
  std::shared_ptr<NativeModel> model;
  std::shared_ptr<engine::RoutingOverride> routing;
};

template <class F>
auto locked(NativeModel& model, F&& f) {
  pybind11::gil_scoped_release release;
  std::lock_guard lock(model.mutex);
  return f();
}

// Appends each item's token ids to its session, in common passes. An item is (NativeSession, ids
// uint32, NativeRouting or None, the position that it counts tokens from). Gives a dict a item:
// "logits" and what `capture` names (session.py has the shapes).
pybind11::list step_batch(NativeModel& model, const pybind11::list& items, bool all_logits,
                          const std::vector<std::string>& capture);

// Appends an item's token ids and gives (logprobs float32 (n), greedy bool (n)).
pybind11::tuple score(NativeModel& model, const pybind11::tuple& item);

// mask uint8 (layers, experts) or None; forced int32 (tokens, layers, top_k) or None.
NativeRouting make_routing(const std::shared_ptr<NativeModel>& model, uint32_t top_k,
                           const pybind11::object& mask, const pybind11::object& forced,
                           bool repeat, const std::string& name);

}  // namespace moeflux::bindings
