// Model and Session for Python: parses the plain dicts that moeflux.families builds, holds one lock
// per model, releases the GIL around everything that reads or computes.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/compute.h"
#include "bindings/spec.h"
#include "engine/engine.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

template <class F>
auto unlocked(F&& f) {
  py::gil_scoped_release release;
  return f();
}

// One engine, the lock that makes it one thread at a time, and what sessions must keep alive.
struct NativeModel {
  std::unique_ptr<base::Account> account;
  std::shared_ptr<base::Arena> arena;
  std::shared_ptr<model::Weights> weights = std::make_shared<model::Weights>();  // in the arena
  std::unique_ptr<engine::Engine> engine;
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

void poll_signals() {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw Interrupted{};
}

std::shared_ptr<NativeModel> load_model(const py::dict& spec, const std::vector<std::string>& paths,
                                        uint64_t budget, uint32_t context, int n_threads,
                                        uint32_t read_threads, uint32_t max_slots, bool direct,
                                        const std::string& simd) {
  auto model = std::make_shared<NativeModel>();
  model->account = std::make_unique<base::Account>(budget);
  Compute compute = open_compute(*model->account, {n_threads, simd});
  model->arena = compute.arena;
  std::vector<std::shared_ptr<io::File>> files;
  for (const std::string& path : paths) files.push_back(io::open_posix(path, direct));

  std::vector<store::LayerExperts> experts =
      read_weights(spec, files, *model->arena, *model->weights);
  engine::Options options;
  options.read_threads = read_threads;
  options.context = context;
  options.max_slots = max_slots;
  unlocked([&] {
    model->engine =
        std::make_unique<engine::Engine>(engine::Parts{model->arena, std::move(compute.ops),
                                                       model->weights, files, std::move(experts)},
                                         options);
    return 0;
  });
  model->engine->set_poll(poll_signals);
  return model;
}

template <class F>
auto locked(NativeModel& model, F&& f) {
  py::gil_scoped_release release;
  std::lock_guard lock(model.mutex);
  return f();
}

py::dict step(NativeSession& self, py::array_t<uint32_t, py::array::c_style> tokens,
              bool all_logits, const std::vector<std::string>& capture_names) {
  const std::vector<uint32_t> ids(tokens.data(), tokens.data() + tokens.size());
  const model::Weights& weights = *self.model->weights;
  const py::ssize_t n = static_cast<py::ssize_t>(ids.size()), vocab = weights.spec.vocab,
                    n_layers = static_cast<py::ssize_t>(weights.layers.size()),
                    d = weights.spec.d_model;
  // Refused before anything of its size is allocated; the engine checks the rest.
  if (ids.size() > self.session->context())
    throw SessionError("[engine::Session] " + std::to_string(n) + " tokens pass the context of " +
                       std::to_string(self.session->context()) + "; load with a larger context=");
  engine::Capture capture;
  capture.top_k = weights.top_k();
  capture.n_experts = weights.n_experts();
  py::dict out;
  const auto array = [&](const char* name, std::vector<py::ssize_t> shape) {
    py::array_t<float> values(std::move(shape));
    out[name] = values;
    return values.mutable_data();
  };
  float* logits = array(
      "logits", all_logits ? std::vector<py::ssize_t>{n, vocab} : std::vector<py::ssize_t>{vocab});
  for (const std::string& name : capture_names) {
    if (name == "experts") {
      py::array_t<int32_t> experts({n, n_layers, py::ssize_t(capture.top_k)});
      out["experts"] = experts;
      capture.experts = experts.mutable_data();
      capture.weights = array("expert_weights", {n, n_layers, py::ssize_t(capture.top_k)});
    } else if (name == "router") {
      capture.router = array("router", {n, n_layers, py::ssize_t(capture.n_experts)});
    } else if (name == "hidden") {
      capture.hidden = array("hidden", {n, n_layers + 1, d});
    } else {
      throw py::value_error("capture: expected router, experts or hidden, found " + name);
    }
  }
  engine::Request request{self.session.get(), ids, all_logits, {}, capture};
  request.on_logits = [&](uint32_t token, const float* row) {
    std::copy_n(row, vocab, logits + (all_logits ? token * vocab : 0));
  };
  locked(*self.model, [&] {
    self.model->engine->step({&request, 1});
    return 0;
  });
  return out;
}

py::dict stats(const NativeModel& model) {
  const engine::Stats s = model.engine->stats();
  using namespace py::literals;
  return py::dict(
      "tokens"_a = s.tokens, "steps"_a = s.steps, "hits"_a = s.store.hits,
      "misses"_a = s.store.misses, "evictions"_a = s.store.evictions,
      "bytes_read"_a = s.store.bytes_read, "wait_seconds"_a = s.pipeline.read_wait_ns * 1e-9,
      "compute_seconds"_a = s.compute_ns * 1e-9, "slots"_a = s.slots, "max_slots"_a = s.max_slots,
      "slot_bytes"_a = s.slot_bytes, "holds_cycle"_a = s.holds_cycle, "live_bytes"_a = s.live_bytes,
      "peak_bytes"_a = s.peak_bytes, "memory_bytes"_a = s.limit_bytes,
      "read_mode"_a = model.engine->read_mode(), "commits"_a = s.pipeline.commits,
      "waits"_a = s.pipeline.waits, "simd"_a = model.engine->ops_name());
}

}  // namespace

void register_model(py::module_& module) {
  py::class_<NativeModel, std::shared_ptr<NativeModel>>(module, "NativeModel")
      .def("session",
           [](const std::shared_ptr<NativeModel>& self) {
             return NativeSession{self, locked(*self, [&] { return self->engine->new_session(); })};
           })
      .def("stats", &stats);
  py::class_<NativeSnapshot>(module, "Snapshot")
      .def_property_readonly("position",
                             [](const NativeSnapshot& self) { return self.snapshot->position; })
      .def_property_readonly(
          "nbytes", [](const NativeSnapshot& self) { return self.snapshot->memory.nbytes(); });
  py::class_<NativeSession>(module, "NativeSession")
      .def("step", &step, py::arg("tokens"), py::arg("all_logits"), py::arg("capture"))
      .def_property_readonly("position",
                             [](const NativeSession& self) { return self.session->position(); })
      .def_property_readonly("context",
                             [](const NativeSession& self) { return self.session->context(); })
      .def("reset",
           [](NativeSession& self) {
             locked(*self.model, [&] {
               self.session->reset();
               return 0;
             });
           })
      .def("save",
           [](NativeSession& self) {
             return NativeSnapshot{self.model, locked(*self.model, [&] {
                                     return self.model->engine->save(*self.session);
                                   })};
           })
      .def("restore", [](NativeSession& self, const NativeSnapshot& snapshot) {
        if (snapshot.model != self.model)
          throw SessionError("[engine::Session] the snapshot belongs to another model");
        locked(*self.model, [&] {
          self.session->restore(*snapshot.snapshot);
          return 0;
        });
      });
  module.def("load_model", &load_model, py::arg("spec"), py::arg("files"), py::arg("memory_bytes"),
             py::arg("context"), py::arg("n_threads"), py::arg("read_threads"),
             py::arg("max_slots"), py::arg("direct"), py::arg("simd"));
}

}  // namespace moeflux::bindings
