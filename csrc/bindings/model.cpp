// Model and Session for Python: parses the plain dicts that moeflux.families builds, holds one lock
// per model, releases the GIL around everything that reads or computes.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>

#include "base/error.h"
#include "bindings/bindings.h"
#include "engine/engine.h"
#include "model/weight_reader.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

quant::DType dtype_of(const std::string& name) {
  if (name == "F32") return quant::DType::f32;
  if (name == "F16") return quant::DType::f16;
  if (name == "BF16") return quant::DType::bf16;
  throw FormatError("[bindings] expected dtype F32, F16 or BF16, found " + name);
}

constexpr std::pair<ops::Precision, const char*> kPrecisions[] = {
    {ops::Precision::float32, "float32"},
    {ops::Precision::bfloat16, "bfloat16"},
    {ops::Precision::int8, "int8"}};

ops::Precision precision_of(const std::string& name) {
  for (const auto& [precision, known] : kPrecisions)
    if (name == known) return precision;
  throw FormatError("[bindings] expected precision float32, bfloat16 or int8, found " + name);
}

const char* name_of(ops::Precision precision) {
  for (const auto& [known, name] : kPrecisions)
    if (precision == known) return name;
  return "?";
}

model::TensorRef parse_tensor(const py::handle& source) {
  const auto t = py::reinterpret_borrow<py::tuple>(source);
  const auto dtype = t[4].cast<std::string>();
  return {t[0].cast<std::string>(), t[1].cast<uint32_t>(), t[2].cast<uint64_t>(),
          t[3].cast<uint64_t>(), dtype == "U32" ? quant::DType::f32 : dtype_of(dtype)};
}

quant::Shape parse_shape(const py::dict& source) {
  return {source["out"].cast<uint32_t>(), source["in"].cast<uint32_t>(),
          source["bits"].cast<uint32_t>(), source["group"].cast<uint32_t>(),
          dtype_of(source["dtype"].cast<std::string>())};
}

template <class F>
auto unlocked(F&& f) {
  py::gil_scoped_release release;
  return f();
}

// Reads what a dict of the spec names; a tensor at a time, so that Ctrl-C is seen between them.
class Loader {
 public:
  explicit Loader(model::WeightReader& reader) : reader_(reader) {}

  const float* vector(const py::dict& parent, const char* key) {
    if (!parent.contains(key)) return nullptr;
    const py::dict source = parent[key];
    const model::VectorSource vector{parse_tensor(source["tensor"]),
                                     source["count"].cast<uint32_t>(), source["add"].cast<float>()};
    check_signals();
    return unlocked([&] { return reader_.vector(vector); });
  }

  ops::Linear matrix(const py::dict& parent, const char* key) {
    if (!parent.contains(key)) return {};
    const py::dict source = parent[key];
    model::MatrixSource matrix;
    matrix.shape = parse_shape(source);
    matrix.weight = parse_tensor(source["weight"]);
    const auto optional = [&](const char* name) -> std::optional<model::TensorRef> {
      if (!source.contains(name)) return std::nullopt;
      return parse_tensor(source[name]);
    };
    matrix.scales = optional("scales");
    matrix.biases = optional("biases");
    matrix.bias = optional("bias");
    if (source.contains("rows"))
      matrix.rows = source["rows"].cast<std::vector<std::pair<uint32_t, uint32_t>>>();
    check_signals();
    return unlocked([&] { return reader_.matrix(matrix); });
  }

  ops::GatedFfn ffn(const py::dict& source) {
    return {matrix(source, "gate"), matrix(source, "up"), matrix(source, "down")};
  }

  static void check_signals() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }

 private:
  model::WeightReader& reader_;
};

void parse_experts(const py::dict& source, uint32_t n_experts, model::Moe& moe,
                   store::LayerExperts& layer) {
  layer.n_experts = n_experts;
  quant::Shape* shapes[] = {&moe.experts.gate, &moe.experts.up, &moe.experts.down};
  const char* names[] = {"gate", "up", "down"};
  uint64_t offset = 0;
  for (int i = 0; i < 3; ++i) {
    const py::dict matrix = source[names[i]];
    *shapes[i] = parse_shape(matrix);
    model::check_shape(*shapes[i], std::string("experts.") + names[i]);
    const uint64_t sizes[] = {shapes[i]->out * shapes[i]->row_bytes(),
                              shapes[i]->out * shapes[i]->scale_row_bytes(),
                              shapes[i]->out * shapes[i]->scale_row_bytes()};
    const char* parts[] = {"weight", "scales", "biases"};
    for (int j = 0; j < 3; ++j) {
      moe.experts.offsets[3 * i + j] = offset;
      if (sizes[j] == 0) continue;
      const py::tuple range = matrix[parts[j]];
      if (range[2].cast<uint64_t>() != sizes[j])
        throw FormatError(std::string("[bindings] expected ") + std::to_string(sizes[j]) +
                          " bytes an expert, found " + std::to_string(range[2].cast<uint64_t>()));
      layer.parts.push_back({sizes[j], offset, range[0].cast<std::vector<uint32_t>>(),
                             range[1].cast<std::vector<uint64_t>>()});
      offset = base::round_up(offset + sizes[j], store::kPartAlignment);
    }
  }
}

model::Layer parse_layer(Loader& load, const py::dict& source, float eps,
                         std::vector<store::LayerExperts>& experts) {
  model::Layer layer;
  const auto kind = source["mixer"].cast<std::string>();
  const py::dict w = source[kind.c_str()];
  const auto number = [&](const char* key) { return w[key].cast<uint32_t>(); };
  if (kind == "attention") {
    ops::Attention& a = layer.attention;
    a.norm = load.vector(source, "norm");
    a.q = load.matrix(w, "q");
    a.k = load.matrix(w, "k");
    a.v = load.matrix(w, "v");
    a.o = load.matrix(w, "o");
    a.gate = load.matrix(w, "gate");
    a.q_norm = load.vector(w, "q_norm");
    a.k_norm = load.vector(w, "k_norm");
    a.n_heads = number("n_heads");
    a.n_kv_heads = number("n_kv_heads");
    a.head_dim = number("head_dim");
    a.rotary_dim = number("rotary_dim");
    a.rope_scale = w["rope_scale"].cast<float>();
    a.eps = eps;
  } else {
    layer.mixer = model::Mixer::delta_net;
    ops::DeltaNet& d = layer.delta_net;
    d.norm = load.vector(source, "norm");
    d.qkv = load.matrix(w, "qkv");
    d.z = load.matrix(w, "z");
    d.b = load.matrix(w, "b");
    d.a = load.matrix(w, "a");
    d.out = load.matrix(w, "out");
    d.conv = load.vector(w, "conv");
    d.a_log = load.vector(w, "a_log");
    d.dt_bias = load.vector(w, "dt_bias");
    d.out_norm = load.vector(w, "out_norm");
    d.n_key_heads = number("n_key_heads");
    d.n_value_heads = number("n_value_heads");
    d.key_dim = number("key_dim");
    d.value_dim = number("value_dim");
    d.conv_width = number("conv_width");
    d.eps = eps;
  }
  layer.ffn_norm = load.vector(source, "ffn_norm");
  if (source.contains("dense")) {
    layer.is_moe = false;
    layer.dense = load.ffn(source["dense"]);
    return layer;
  }
  const py::dict m = source["moe"];
  model::Moe& moe = layer.moe;
  moe.router.gate = load.matrix(m, "router");
  moe.router.n_experts = m["n_experts"].cast<uint32_t>();
  moe.router.top_k = m["top_k"].cast<uint32_t>();
  moe.router.normalise = m["normalise"].cast<bool>();
  moe.has_shared = m.contains("shared");
  if (moe.has_shared) {
    moe.shared = load.ffn(m["shared"]);
    moe.shared_gate = load.matrix(m, "shared_gate");
  }
  moe.store_layer = static_cast<uint32_t>(experts.size());
  experts.emplace_back();
  parse_experts(m["experts"], moe.router.n_experts, moe, experts.back());
  return layer;
}

// One engine, the lock that makes it one thread at a time, and what sessions must keep alive.
struct NativeModel {
  std::shared_ptr<base::Account> account;
  std::shared_ptr<model::Weights> weights = std::make_shared<model::Weights>();
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
                                        const std::string& simd, const std::string& precision) {
  auto model = std::make_shared<NativeModel>();
  model->account = std::make_shared<base::Account>(budget);
  model::Weights& weights = *model->weights;
  std::vector<std::shared_ptr<io::File>> files;
  for (const std::string& path : paths) files.push_back(io::open_posix(path, direct));

  weights.spec = {spec["vocab"].cast<uint32_t>(), spec["d_model"].cast<uint32_t>(),
                  spec["eps"].cast<float>(), spec["chunk"].cast<uint32_t>()};
  std::vector<store::LayerExperts> experts;
  {
    model::WeightReader reader(files, *model->account, weights);
    Loader load(reader);
    weights.embed = load.matrix(spec, "embed").weight;
    weights.final_norm = load.vector(spec, "final_norm");
    if (spec.contains("head"))
      weights.head = load.matrix(spec, "head");
    else
      weights.head.weight = weights.embed;
    const auto inv_freq = spec["inv_freq"].cast<std::vector<float>>();
    weights.memory.emplace_back(*model->account, inv_freq.size() * sizeof(float) + 4,
                                "rotary frequencies");
    float* frequencies = weights.memory.back().as<float>();
    std::copy(inv_freq.begin(), inv_freq.end(), frequencies);
    for (const py::handle& source : spec["layers"]) {
      weights.layers.push_back(
          parse_layer(load, py::reinterpret_borrow<py::dict>(source), weights.spec.eps, experts));
      weights.layers.back().attention.inv_freq = frequencies;
    }
  }
  engine::Options options;
  options.n_threads = n_threads;
  options.read_threads = read_threads;
  options.context = context;
  options.max_slots = max_slots;
  options.simd = simd.c_str();
  options.precision = precision_of(precision);
  unlocked([&] {
    model->engine = std::make_unique<engine::Engine>(model->account, model->weights, files,
                                                     std::move(experts), options);
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
  for (const model::Layer& layer : weights.layers) {
    if (!layer.is_moe) continue;
    capture.top_k = std::max(capture.top_k, layer.moe.router.top_k);
    capture.n_experts = std::max(capture.n_experts, layer.moe.router.n_experts);
  }
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
  locked(*self.model, [&] {
    self.model->engine->step(*self.session, ids, all_logits, logits, capture);
    return 0;
  });
  return out;
}

py::dict stats(const NativeModel& model) {
  const engine::Stats s = model.engine->stats();
  using namespace py::literals;
  return py::dict("tokens"_a = s.tokens, "steps"_a = s.steps, "hits"_a = s.store.hits,
                  "misses"_a = s.store.misses, "evictions"_a = s.store.evictions,
                  "bytes_read"_a = s.store.bytes_read, "wait_seconds"_a = s.store.wait_ns * 1e-9,
                  "compute_seconds"_a = s.compute_ns * 1e-9, "slots"_a = s.slots,
                  "max_slots"_a = s.max_slots, "slot_bytes"_a = s.slot_bytes,
                  "holds_cycle"_a = s.holds_cycle, "live_bytes"_a = s.live_bytes,
                  "peak_bytes"_a = s.peak_bytes, "memory_bytes"_a = s.limit_bytes,
                  "read_mode"_a = model.engine->read_mode(), "simd"_a = model.engine->simd(),
                  "precision"_a = name_of(model.engine->precision()));
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
             py::arg("max_slots"), py::arg("direct"), py::arg("simd"), py::arg("precision"));
}

}  // namespace moeflux::bindings
