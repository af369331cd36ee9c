#include "bindings/spec.h"

#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/formats.h"
#include "bindings/gil.h"
#include "model/check_layer.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

model::TensorRef parse_tensor(const py::handle& source) {
  const auto t = py::reinterpret_borrow<py::tuple>(source);
  const auto dtype = t[4].cast<std::string>();
  return {t[0].cast<std::string>(), t[1].cast<uint32_t>(), t[2].cast<uint64_t>(),
          t[3].cast<uint64_t>(), is_packed(dtype) ? quant::DType::f32 : dtype_of(dtype)};
}

// One number of 32 bits, or a list of such.
template <class T = uint32_t>
T number(const py::dict& source, const char* key) {
  try {
    return source[key].cast<T>();
  } catch (const py::cast_error&) {
    throw FormatError("[bindings] ", key, ": expected integers below 2^32, found ",
                      py::str(source[key]).cast<std::string>());
  }
}

quant::Shape parse_shape(const py::dict& source) {
  return {number(source, "out"), number(source, "in"),
          &quant::find_format(source["format"].cast<std::string>()), number(source, "group"),
          dtype_of(source["dtype"].cast<std::string>())};
}

// Reads what a dict of the spec names; a tensor at a time, so that Ctrl-C is seen between them.
class Loader {
 public:
  explicit Loader(model::WeightReader& reader) : reader_(reader) {}

  const float* vector(const py::dict& parent, const char* key) {
    if (!parent.contains(key)) return nullptr;
    const py::dict source = parent[key];
    const model::VectorSource vector{parse_tensor(source["tensor"]), number(source, "count"),
                                     source["add"].cast<float>()};
    check_signals();
    return unlocked([&] { return reader_.vector(vector); });
  }

  ops::Linear matrix(const py::dict& parent, const char* key) {
    if (!parent.contains(key)) return {};
    const py::dict source = parent[key];
    model::MatrixSource matrix;
    matrix.shape = parse_shape(source);
    const quant::Format& format = *matrix.shape.format;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (format.in_file(plane))
        matrix.planes[plane] = parse_tensor(source[format.planes[plane].name]);
    if (source.contains("bias")) matrix.bias = parse_tensor(source["bias"]);
    if (source.contains("rows"))
      matrix.rows = number<std::vector<std::pair<uint32_t, uint32_t>>>(source, "rows");
    check_signals();
    return unlocked([&] { return reader_.matrix(matrix); });
  }

  ops::GatedFfn ffn(const py::dict& source) {
    return {matrix(source, "gate"), matrix(source, "up"), matrix(source, "down")};
  }

 private:
  model::WeightReader& reader_;
};

void parse_experts(const py::dict& source, uint32_t n_experts, uint64_t alignment, model::Moe& moe,
                   store::LayerExperts& layer) {
  layer.n_experts = n_experts;
  moe.experts.ffn = expert_shapes(source);
  const ops::GatedFfn& ffn = moe.experts.ffn;
  for (size_t i = 0; i < ffn.kMatrices.size(); ++i) {
    const py::dict matrix = source[ffn.kNames[i]];
    const quant::Format& format = *(ffn.*ffn.kMatrices[i]).weight.shape.format;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
      if (!format.in_file(plane)) continue;
      const py::tuple range = matrix[format.planes[plane].name];
      layer.parts.push_back({range[2].cast<uint64_t>(), 0, range[0].cast<std::vector<uint32_t>>(),
                             range[1].cast<std::vector<uint64_t>>()});
    }
  }
  model::place_experts(layer, alignment, moe.experts);
}

model::Layer parse_layer(Loader& load, const py::dict& source, float eps, uint64_t alignment,
                         std::vector<store::LayerExperts>& experts) {
  model::Layer layer;
  const auto kind = source["mixer"].cast<std::string>();
  const py::dict w = source[kind.c_str()];
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
    a.n_heads = number(w, "n_heads");
    a.n_kv_heads = number(w, "n_kv_heads");
    a.head_dim = number(w, "head_dim");
    a.rotary_dim = number(w, "rotary_dim");
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
    d.n_key_heads = number(w, "n_key_heads");
    d.n_value_heads = number(w, "n_value_heads");
    d.key_dim = number(w, "key_dim");
    d.value_dim = number(w, "value_dim");
    d.conv_width = number(w, "conv_width");
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
  moe.router.n_experts = number(m, "n_experts");
  moe.router.top_k = number(m, "top_k");
  moe.router.normalise = m["normalise"].cast<bool>();
  moe.has_shared = m.contains("shared");
  if (moe.has_shared) {
    moe.shared = load.ffn(m["shared"]);
    moe.shared_gate = load.matrix(m, "shared_gate");
  }
  moe.store_layer = static_cast<uint32_t>(experts.size());
  experts.emplace_back();
  parse_experts(m["experts"], moe.router.n_experts, alignment, moe, experts.back());
  return layer;
}

// All but waiting for the reader.
std::vector<store::LayerExperts> ask_for_weights(const py::dict& spec, base::Arena& arena,
                                                 model::WeightReader& reader,
                                                 model::Weights& weights) {
  std::vector<store::LayerExperts> experts;
  Loader load(reader);
  weights.embed = load.matrix(spec, "embed").weight;
  weights.head.norm = load.vector(spec, "final_norm");
  weights.head.eps = weights.spec.eps;
  if (spec.contains("head"))
    weights.head.linear = load.matrix(spec, "head");
  else
    weights.head.linear.weight = weights.embed;
  model::check_ends(weights, reader);
  const auto inv_freq = spec["inv_freq"].cast<std::vector<float>>();
  weights.memory.emplace_back(arena, inv_freq.size() * sizeof(float) + 4, "rotary frequencies");
  weights.memory.back().write<float>(0, inv_freq);
  const float* frequencies = weights.memory.back().as<float>();
  for (const py::handle& source : spec["layers"]) {
    weights.layers.push_back(parse_layer(load, py::reinterpret_borrow<py::dict>(source),
                                         weights.spec.eps, arena.weight_alignment(), experts));
    weights.layers.back().attention.inv_freq = frequencies;
    model::check_layer(weights.layers.back(), weights.layers.size() - 1, weights.spec,
                       static_cast<uint32_t>(inv_freq.size()), reader);
  }
  return experts;
}

}  // namespace

ops::GatedFfn expert_shapes(const py::dict& source) {
  ops::GatedFfn ffn;
  for (size_t i = 0; i < ffn.kMatrices.size(); ++i) {
    quant::Shape& shape = (ffn.*ffn.kMatrices[i]).weight.shape;
    shape = parse_shape(source[ffn.kNames[i]]);
    quant::check_shape(shape, cat("experts.", ffn.kNames[i]));
  }
  return ffn;
}

std::vector<store::LayerExperts> read_weights(const py::dict& spec,
                                              const std::vector<std::shared_ptr<io::File>>& files,
                                              base::Arena& arena, model::Weights& weights) {
  weights.spec = {number(spec, "vocab"), number(spec, "d_model"), spec["eps"].cast<float>(),
                  number(spec, "chunk")};
  model::WeightReader reader(files, arena, weights);
  std::vector<store::LayerExperts> experts;
  try {
    experts = ask_for_weights(spec, arena, reader, weights);
  } catch (const Error&) {  // what was asked for before, and fails as well, is told instead
    unlocked([&] { reader.finish(); });
    throw;
  }
  unlocked([&] { reader.finish(); });
  weights.tables = base::Booking(arena.account(),
                                 weights.layers.capacity() * sizeof(model::Layer) +
                                     weights.memory.capacity() * sizeof(base::Memory),
                                 "tables of layers");
  return experts;
}

}  // namespace moeflux::bindings
