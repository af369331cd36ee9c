// Model and Session for Python. The GIL is released around everything that reads or computes.
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/compute.h"
#include "bindings/native.h"
#include "bindings/plan.h"
#include "bindings/spec.h"
#include "model/loader.h"
#include "ops/cpu/kernels.h"
#include "ops/gpu/device_arena.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

// As the ops compute that open_compute() gives.
model::DecodeRow row_decoder(const ComputeOptions& options) {
  const auto& kernels = ops::cpu::select_kernels(options.simd.c_str());
  return [&kernels](const quant::Matrix& matrix, uint32_t row, float* out) {
    kernels.dequant_row(matrix, row, out);
  };
}

std::shared_ptr<NativeModel> load(const py::dict& spec,
                                  const std::vector<std::shared_ptr<io::File>>& files,
                                  uint64_t budget, const ComputeOptions& compute_options,
                                  const engine::Options& options) {
  auto model = std::make_shared<NativeModel>();
  const model::DecodeRow decode = row_decoder(compute_options);
  model->account = std::make_unique<base::Account>(budget);
  Compute compute = open_compute(*model->account, compute_options);
  model->device = compute_options.device;
  if (const auto& device = model->device) {
    model->device_kind = device->kind();
    model->device_name = device->name();
  }
  model->precision = name_of(compute_options.precision);
  model->kv = kv_of(compute_options);
  model->arena = compute.arena;
  const model::Node tree = to_node(spec);
  compute.ops->set_poll(poll_signals);  // kernels of a device are compiled: Ctrl-C ends that
  model->engine = Owned(unlocked([&] {
    auto experts = model::load(tree, files, *model->arena, poll_signals, *model->weights, decode);
    return std::make_shared<engine::Engine>(
        engine::Parts{model->arena, std::move(compute.ops), model->weights, files,
                      std::move(experts)},
        options);
  }));
  model->engine->set_poll([model = model.get()] { model->poll(); });
  return model;
}

std::shared_ptr<NativeModel> load_model(const py::dict& spec, const std::vector<std::string>& paths,
                                        uint64_t budget, bool direct, const ComputeOptions& compute,
                                        const engine::Options& options) {
  if (compute.device) ops::gpu::check_working_set(*compute.device, budget);
  std::vector<std::shared_ptr<io::File>> files;
  std::vector<uint64_t> file_bytes;
  for (const std::string& path : paths) {
    files.push_back(io::open_posix(path, direct));
    file_bytes.push_back(files.back()->size());
  }
  try {
    return load(spec, files, budget, compute, options);
  } catch (const MemoryBudgetError&) {
    // The first booking that found no room knows what it takes; the plan knows the whole.
    store::PlanInput needs = measure(spec, file_bytes, compute, options).sizes;
    needs.memory_bytes = budget;
    store::make_plan(needs);
    throw;
  }
}

py::dict stats(const NativeModel& model) {
  const engine::Stats s = model.engine->stats();
  using namespace py::literals;
  py::dict kernels;
  for (const auto& [name, n] : s.counts.kernels) kernels[py::str(name.data(), name.size())] = n;
  return py::dict(
      "tokens"_a = s.tokens, "steps"_a = s.steps, "passes"_a = s.passes,
      "overridden_tokens"_a = s.overridden_tokens,
      "routing"_a = s.overridden_tokens ? "override: " + s.override_name : "native",
      "hits"_a = s.store.hits, "misses"_a = s.store.misses, "evictions"_a = s.store.evictions,
      "bytes_read"_a = s.store.bytes_read, "ahead_reads"_a = s.store.guesses,
      "ahead_used"_a = s.store.guesses_used, "reading_seconds"_a = s.store.reading_ns * 1e-9,
      "wait_seconds"_a = s.pipeline.read_wait_ns * 1e-9, "compute_seconds"_a = s.compute_ns * 1e-9,
      "slots"_a = s.slots, "max_slots"_a = s.max_slots, "slot_bytes"_a = s.slot_bytes,
      "holds_cycle"_a = s.holds_cycle, "live_bytes"_a = s.live_bytes, "peak_bytes"_a = s.peak_bytes,
      "memory_bytes"_a = s.limit_bytes, "read_mode"_a = model.engine->read_mode(),
      "commits"_a = s.pipeline.commits, "waits"_a = s.pipeline.waits,
      "dispatches"_a = s.counts.dispatches, "kernels"_a = kernels,
      "simd"_a = model.engine->ops_name(), "precision"_a = model.precision, "kv"_a = model.kv,
      "device"_a = model.device_kind, "device_name"_a = model.device_name);
}

void register_native_model(py::module_& module) {
  py::class_<NativeModel, std::shared_ptr<NativeModel>>(module, "NativeModel")
      .def(
          "session",
          [](const std::shared_ptr<NativeModel>& self) {
            return NativeSession{
                self,
                Owned(locked(*self, [](engine::Engine& engine) { return engine.new_session(); }))};
          },
          py::keep_alive<0, 1>())  // memory.py counts a model while Python's handle of it lives
      .def("step_batch", &step_batch, py::arg("items"), py::arg("logits"), py::arg("capture"),
           py::arg("aborts_before") = py::none(), py::arg("samples") = py::none())
      .def("abort", [](NativeModel& self) { ++self.aborts; })
      .def(
          "ring_next", [](NativeModel& self, int bell) { return self.bell.exchange(bell); },
          py::arg("bell"))
      .def_property_readonly("aborts", [](const NativeModel& self) { return self.aborts.load(); })
      .def("score", &score, py::arg("item"), py::arg("top"), py::arg("following"))
      .def("routing", &make_routing, py::arg("top_k"), py::arg("mask"), py::arg("forced"),
           py::arg("repeat"), py::arg("name"), py::arg("and_session"))
      .def("experts",
           [](const NativeModel& self) {  // (experts, experts a token) by layer; (0, 0): dense
             std::vector<std::pair<uint32_t, uint32_t>> layers;
             for (const model::Layer& layer : self.weights->layers) {
               const model::Moe* moe = layer.moe();
               layers.emplace_back(moe ? moe->router.n_experts : 0, moe ? moe->router.top_k : 0);
             }
             return layers;
           })
      .def("set_memory",
           [](NativeModel& self, uint64_t nbytes) {
             if (self.device) ops::gpu::check_working_set(*self.device, nbytes);
             locked(self, [&](engine::Engine& engine) { engine.set_memory(nbytes); });
           })
      .def("least_bytes", [](const NativeModel& self) { return self.engine->least_bytes(); })
      .def_property_readonly("rows", [](const NativeModel& self) { return self.engine->rows(); })
      .def("free_bytes", [](const NativeModel& self) { return self.engine->free_bytes(); })
      .def("snapshot_form", &snapshot_form, py::arg("positions"))
      .def("stats", &stats);
}

void register_sessions(py::module_& module) {
  py::class_<NativeRouting>(module, "NativeRouting")
      .def_property_readonly("name", [](const NativeRouting& self) { return self.routing->name; });
  py::class_<NativeSession>(module, "NativeSession")
      .def_property_readonly("model", [](const NativeSession& self) { return self.model; })
      .def_property_readonly("position",
                             [](const NativeSession& self) { return self.session->position(); })
      .def_property_readonly("context",
                             [](const NativeSession& self) { return self.session->context(); })
      .def_property_readonly(
          "taken_back",
          [](const NativeSession& self) { return self.session->layout().taken_back(); })
      .def("least_tokens",
           [](const NativeSession& self) {
             return locked(*self.model,
                           [&](engine::Engine&) { return self.session->least_tokens(); });
           })
      .def("bytes", [](const NativeSession& self,
                       uint32_t positions) { return self.session->layout().bytes(positions); })
      .def("reset",
           [](NativeSession& self) {
             engine::Session& session = *self.session;
             locked(*self.model, [&](engine::Engine&) { session.reset(); });
           })
      .def("save",
           [](NativeSession& self) {
             const engine::Session& session = *self.session;
             return NativeSnapshot{self.model,
                                   Owned(locked(*self.model, [&](engine::Engine& engine) {
                                     return engine.save(session);
                                   }))};
           })
      .def("fork",
           [](NativeSession& self) {
             const engine::Session& session = *self.session;
             return NativeSession{self.model,
                                  Owned(locked(*self.model, [&](engine::Engine& engine) {
                                    return engine.fork(session);
                                  }))};
           })
      .def("truncate",
           [](NativeSession& self, uint32_t n_tokens) {
             engine::Session& session = *self.session;
             locked(*self.model,
                    [&](engine::Engine& engine) { engine.truncate(session, n_tokens); });
           })
      .def("restore", [](NativeSession& self, const NativeSnapshot& snapshot) {
        if (snapshot.model != self.model)
          throw SessionError("[engine::Session] the snapshot belongs to another model");
        engine::Session& session = *self.session;
        const engine::Session::Snapshot& saved = *snapshot.snapshot;
        locked(*self.model, [&](engine::Engine& engine) { engine.restore(session, saved); });
      });
}

}  // namespace

void register_model(py::module_& module) {
  register_native_model(module);
  register_sessions(module);
  module.def("load_model", &load_model, py::kw_only(), py::arg("spec"), py::arg("files"),
             py::arg("memory_bytes"), py::arg("direct"), py::arg("compute"), py::arg("options"));
}

}  // namespace moeflux::bindings
