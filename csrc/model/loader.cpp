#include "model/loader.h"

#include <cmath>
#include <utility>

namespace moeflux::model {

namespace {

template <class T = uint32_t>
T number(const Node& node, const char* key) {
  T value;
  node.at(key).get(key, value);
  return value;
}

quant::Shape shape_of(const Node& node) {
  return {number(node, "out"), number(node, "in"),
          &quant::find_format(node.at("format").as<std::string>("format")), number(node, "group"),
          quant::dtype_of(node.at("dtype").as<std::string>("dtype"))};
}

// `where`: what has the shape. A size of 0 is any.
void expect_shape(const std::string& part, uint64_t out, uint64_t in, uint64_t found_out,
                  uint64_t found_in, const std::string& where) {
  if ((out == 0 || out == found_out) && (in == 0 || in == found_in)) return;
  throw FormatError("[model::load] ", part, ": expected (", out ? cat(out) : "any", ", ",
                    in ? cat(in) : "any", "), found (", found_out, ", ", found_in, ")", where);
}

// Which of `names` the node says; `where`: what does.
template <class T>
T chosen(const Node& node, const char* name, const auto& names, T, const std::string& where) {
  const auto& found = node.as<std::string>(name);
  std::string known;
  for (size_t i = 0; i < names.size(); ++i) {
    if (found == names[i]) return static_cast<T>(i);
    known += cat(i ? ", " : "", names[i]);
  }
  throw FormatError("[model::load] ", name, ": expected one of ", known, ", found ", found, where);
}

struct Loading {
  base::Arena& arena;
  const std::function<void()>& poll;
  Weights& weights;
  WeightReader reader;
  std::vector<store::LayerExperts> experts = {};
  std::map<std::vector<float>, const float*> lists = {};  // that layers share
};

// A visitor of fields(): reads parts of a dict of the spec, or of those around it.
struct Fields {
  Loading& loading;
  const Node& node;
  std::string place;
  const Fields* around = nullptr;
  uint32_t d_model = loading.weights.spec.d_model;

  Fields within(const char* key) const { return {loading, node.at(key), place, this}; }
  void require(bool holds, const auto&... what) const {
    if (!holds) throw FormatError("[model::load] ", what..., place);
  }
  const Node* find(const char* name, bool optional = false) const {
    for (const Fields* fields = this; fields; fields = fields->around)
      if (const Node* found = fields->node.find(name)) return found;
    require(optional, name, ": expected a part of that name, found none");
    return nullptr;
  }
  void number(const char* name, auto& to) const { find(name)->get(name, to); }
  void choice(const char* name, auto& to, const auto& names) const;
  void vector(const char* name, const float*& to, uint64_t count, bool optional = false) const {
    vector(name, to, count, optional, nullptr);
  }
  // Stored as it is, as the parts of all slices, or as slices of a matrix of each part.
  void sliced(const char* name, const float*& to, const ops::Slices& slices) const {
    vector(name, to, slices.count(), false, &slices);
  }
  void vector(const char* name, const float*& to, uint64_t count, bool optional,
              const ops::Slices* slices) const;
  void matrix(const char* name, ops::Linear& to, uint64_t out, uint64_t in,
              bool optional = false) const;
  const float* list(const Node::List& values) const;
};

void Fields::choice(const char* name, auto& to, const auto& names) const {
  to = chosen(*find(name), name, names, to, place);
}

const float* Fields::list(const Node::List& values) const {
  std::vector<float> numbers(values.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    values[i].get("a list", numbers[i]);
    require(std::isfinite(numbers[i]), "expected finite numbers, found one that is none");
  }
  const float*& data = loading.lists[numbers];
  if (data) return data;
  base::Memory& memory = loading.weights.memory.emplace_back(
      loading.arena, numbers.size() * sizeof(float) + 4, "list of numbers");
  memory.write<float>(0, numbers);
  return data = memory.as<float>();
}

MatrixSource matrix_source(const Node& of) {
  MatrixSource source{shape_of(of)};
  for (size_t plane = 0; plane < quant::kPlanes; ++plane)
    if (source.shape.format->in_file(plane)) {
      const char* key = source.shape.format->planes[plane].name;
      source.planes[plane] = of.at(key).as<TensorRef>(key);
    }
  return source;
}

// Throws FormatError unless a vector of such slices can be made of the stacks.
void check_stacks(const Fields& fields, const char* name, const VectorSource& source,
                  const ops::Slices& of) {
  fields.require(source.slices == of.n, name, ": expected ", of.n, " slices, found ",
                 source.slices);
  const auto parts = source.stacks.size() == 1 ? std::vector{of.rows()} : of.parts;
  fields.require(source.stacks.size() == parts.size(), name, ": expected 1 or ", of.parts.size(),
                 " matrices of slices, found ", source.stacks.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [matrix, turned] = source.stacks[i];
    expect_shape(name, of.n * (turned ? of.columns : parts[i]), turned ? parts[i] : of.columns,
                 matrix.shape.out, matrix.shape.in, cat(" (tensor ", matrix.name(), ")"));
  }
}

void Fields::vector(const char* name, const float*& to, uint64_t count, bool optional,
                    const ops::Slices* slices) const {
  const Node* of = find(name, optional);
  if (!of) return;
  if (const auto* values = std::get_if<Node::List>(&of->value)) {
    require(values->size() == count, name, ": expected ", count, " numbers, found ",
            values->size());
    to = list(*values);
    return;
  }
  VectorSource source{of->at("tensor").as<TensorRef>("tensor"), model::number(*of, "count"),
                      model::number<float>(*of, "add"), model::number<float>(*of, "mul")};
  if (const Node* matrix = of->find("matrix")) {
    source.matrix = matrix_source(*matrix);
    const quant::Shape& shape = source.matrix->shape;
    require(uint64_t(shape.out) * shape.in == count, name, ": expected ", count, " numbers, found ",
            shape.out, " rows of ", shape.in, " (tensor ", source.matrix->name(), ")");
  }
  if (const Node* stacks = of->find("stacks")) {
    require(slices != nullptr, name, ": expected one tensor, found slices");
    of->at("slices").get("slices", source.slices);
    for (const Node& stack : stacks->as<Node::List>("stacks"))
      source.stacks.push_back(
          {matrix_source(stack.at("matrix")), stack.at("turned").as<bool>("turned")});
    check_stacks(*this, name, source, *slices);
  }
  require(source.count == count, name, ": expected ", count, " numbers, found ", source.count,
          " (tensor ", source.tensor.name, ")");
  loading.poll();
  to = loading.reader.vector(source);
}

void Fields::matrix(const char* name, ops::Linear& to, uint64_t out, uint64_t in,
                    bool optional) const {
  const Node* of = find(name, optional);
  if (!of) return;
  MatrixSource source = matrix_source(*of);
  if (const Node* bias = of->find("bias")) source.bias = bias->as<TensorRef>("bias");
  if (const Node* rows = of->find("rows"))
    for (const Node& range : rows->as<Node::List>("rows")) {
      const auto& pair = range.as<Node::List>("rows");
      require(pair.size() == 2, name, ": expected pairs of rows, found ", pair.size(), " numbers");
      auto& [begin, count] = source.rows.emplace_back();
      pair[0].get("rows", begin);
      pair[1].get("rows", count);
    }
  require(source.n_rows() > 0, name, ": expected rows, found none");
  expect_shape(name, out, in, source.n_rows(), source.shape.in,
               cat(" (tensor ", source.name(), ")"));
  loading.poll();
  to = loading.reader.matrix(source);
}

// The same for a layer's experts, which stay in the files: shapes, and a part for each plane.
struct ExpertFields {
  const Node& experts;
  std::string place = {};
  uint32_t d_model = 0;                       // any
  std::vector<store::Part>* parts = nullptr;  // not asked for

  void number(const char* name, auto& to) const { experts.at(name).get(name, to); }
  void choice(const char* name, auto& to, const auto& names) const {
    to = chosen(experts.at(name), name, names, to, place);
  }
  void matrix(const char* name, ops::Linear& to, uint64_t out, uint64_t in) const {
    const Node& of = experts.at(name);
    const std::string part = cat("experts.", name);
    const quant::Shape& shape = to.weight.shape = shape_of(of);
    quant::check_shape(shape, part);
    expect_shape(part, out, in, shape.out, shape.in, place);
    if (!parts) return;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
      if (!shape.format->in_file(plane)) continue;
      const char* key = shape.format->planes[plane].name;
      parts->push_back(of.at(key).as<store::Part>(key));
    }
  }
};

void read_ffn(const Fields& fields, ops::GatedFfn& ffn) {
  ffn.fields(fields);
  fields.require(ffn.fault().empty(), "expected ", ffn.fault());
}

void read_moe(const Fields& fields, Moe& moe) {
  moe.router.fields(fields);
  fields.require(moe.router.fault().empty(), "expected ", moe.router.fault());
  moe.has_shared = fields.node.find("shared") != nullptr;
  if (moe.has_shared) {
    read_ffn(fields.within("shared"), moe.shared);
    fields.matrix("shared_gate", moe.shared_gate, 1, fields.d_model, ops::kOptional);
  }
  moe.sandwich.fields(fields);
  fields.require(!moe.sandwich.any() || moe.has_shared, "shared: expected it beside router_norm");
  fields.matrix("latent_in", moe.latent_in, 0, fields.d_model, ops::kOptional);
  if (moe.has_latent())
    fields.matrix("latent_out", moe.latent_out, fields.d_model, moe.latent_in.out());
  fields.require(!moe.has_latent() || (!moe.sandwich.any() && moe.shared_gate.out() == 0),
                 "latent_in: expected no router_norm and no shared_gate beside it");
  moe.store_layer = static_cast<uint32_t>(fields.loading.experts.size());
  store::LayerExperts& layer = fields.loading.experts.emplace_back();
  layer.n_experts = moe.router.n_experts;
  moe.experts.ffn.fields(ExpertFields{fields.node.at("experts"), fields.place,
                                      moe.width(fields.d_model), &layer.parts});
  fields.require(moe.experts.ffn.fault().empty(), "experts: expected ", moe.experts.ffn.fault());
  for (size_t matrix = 0; matrix < moe.experts.biases.size(); ++matrix) {
    const ops::GatedFfn& ffn = moe.experts.ffn;
    const uint64_t out = (ffn.*ffn.kMatrices[matrix]).out();
    if (out == 0) continue;
    fields.vector(cat(ffn.kNames[matrix], "_bias").c_str(), moe.experts.biases[matrix],
                  layer.n_experts * out, ops::kOptional);
  }
  place_experts(layer, fields.loading.arena.weight_alignment(), moe.experts);
}

// Whether it is of that kind, one of ops::Mixer's.
template <class M>
bool read_mixer(const Fields& layer, const std::string& kind, ops::Mixer& mixer) {
  if (kind != M::kKind) return false;
  M& read = mixer.emplace<M>();
  read.fields(layer.within(M::kKind));
  layer.require(read.fault().empty(), "expected ", read.fault());
  return true;
}
template <class... M>
void read_mixer(const Fields& layer, std::variant<M...>& mixer) {
  const auto& kind = layer.node.at("mixer").as<std::string>("mixer");
  layer.require((read_mixer<M>(layer, kind, mixer) || ...), "expected a known mixer, found ", kind);
}

void read_layer(const Fields& fields, Layer& layer) {
  read_mixer(fields, layer.mixer);
  if (!std::holds_alternative<ops::Nothing>(layer.mixer))
    fields.vector("norm", layer.norm, fields.d_model);
  const auto& network = fields.node.at("ffn").as<std::string>("ffn");
  if (network == ops::Nothing::kKind) {
    layer.ffn.emplace<ops::Nothing>();
    return;
  }
  fields.vector("ffn_norm", layer.ffn_norm, fields.d_model);
  if (network == "dense")
    return read_ffn(fields.within("dense"), layer.ffn.emplace<ops::GatedFfn>());
  fields.require(network == "moe", "expected a known network, found ", network);
  read_moe(fields.within("moe"), std::get<Moe>(layer.ffn));
}

void read_all(const Node& node, Loading& loading) {
  Weights& weights = loading.weights;
  Spec& spec = weights.spec;
  spec = {number(node, "vocab"), number(node, "d_model"), number<float>(node, "eps"),
          number(node, "chunk")};
  const Fields fields{loading, node, ""};
  fields.require(spec.vocab && spec.d_model && spec.chunk,
                 "expected a vocabulary, a width and a chunk of at least one");
  ops::Linear embed;
  fields.matrix("embed", embed, spec.vocab, spec.d_model);
  weights.embed = embed.weight;
  weights.head = {nullptr, spec.eps, {embed.weight}};  // where there is no other
  fields.vector("final_norm", weights.head.norm, spec.d_model);
  fields.vector("embed_scale", weights.embed_scale, 1, ops::kOptional);
  if (const Node* cap = node.find("softcap")) cap->get("softcap", weights.head.softcap);
  fields.require(weights.head.softcap >= 0 && std::isfinite(weights.head.softcap),
                 "expected a finite softcap from 0, found ", weights.head.softcap);
  fields.matrix("head", weights.head.linear, spec.vocab, spec.d_model, ops::kOptional);
  for (const Node& layer : node.at("layers").as<Node::List>("layers")) {
    const std::string place = cat(" (layer ", weights.layers.size(), ")");
    read_layer({loading, layer, place, &fields}, weights.layers.emplace_back());
  }
}

}  // namespace

ops::GatedFfn expert_shapes(const Node& experts) {
  ops::GatedFfn ffn;
  ffn.fields(ExpertFields{experts});
  return ffn;
}

std::vector<store::LayerExperts> load(const Node& spec,
                                      const std::vector<std::shared_ptr<io::File>>& files,
                                      base::Arena& arena, const std::function<void()>& poll,
                                      Weights& weights, DecodeRow decode) {
  Loading loading{arena, poll, weights, WeightReader(files, arena, weights, std::move(decode))};
  try {
    read_all(spec, loading);
  } catch (const Error&) {  // what was asked for before, and fails as well, is told instead
    loading.reader.finish();
    throw;
  }
  loading.reader.finish();
  weights.tables = base::Booking(
      arena.account(),
      weights.layers.capacity() * sizeof(Layer) + weights.memory.capacity() * sizeof(base::Memory),
      "tables of layers");
  return std::move(loading.experts);
}

}  // namespace moeflux::model
