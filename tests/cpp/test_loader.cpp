// A model is built from a tree of values, whoever made it; what the tree gets wrong is refused by
// name. That the model computes is TinyModel's, which is loaded so.
#include <doctest/doctest.h>

#include "memory_file.h"
#include "model/loader.h"
#include "spec_writer.h"

using namespace moeflux;
using model::Node;

namespace {

constexpr uint32_t kModel = 32;

// Two layers, which share a list of rotary frequencies.
Node::Dict spec(SpecWriter::File& file) {
  SpecWriter writer(file, kModel);
  for (const auto& [name, value] : {std::pair("vocab", 11u), {"d_model", kModel}, {"chunk", 4u}})
    writer.number(name, value);
  writer.number("eps", 1e-5f);
  writer.matrix("embed", {}, 11, kModel);
  writer.vector("final_norm", nullptr, kModel);
  Node::List layers;
  for (int index = 0; index < 2; ++index) {
    ops::Attention attention;
    attention.n_heads = 4, attention.n_kv_heads = 2, attention.head_dim = 8;
    attention.rotary_dim = 4, attention.eps = 1e-5f;
    ops::GatedFfn ffn;
    ffn.gate.weight.shape.out = 16;
    SpecWriter layer(file, kModel);
    layer.dict["mixer"] = {std::string("attention")};
    layer.part("attention", attention);
    for (const char* name : {"norm", "ffn_norm"}) layer.vector(name, nullptr, kModel);
    layer.dict["ffn"] = {std::string("dense")};
    layer.part("dense", ffn);
    auto& part = std::get<Node::Dict>(layer.dict["attention"].value);
    writer.dict["inv_freq"] = part.extract("inv_freq").mapped();
    layers.push_back({layer.dict});
  }
  writer.dict["layers"] = {layers};
  return writer.dict;
}

struct Loaded {
  explicit Loaded(std::vector<std::byte> bytes, Node::Dict spec) {
    model::load(
        {std::move(spec)}, {io::open_memory(std::move(bytes), "weights")}, arena, [&] { ++polls; },
        weights);
  }
  base::Account account{UINT64_MAX};
  base::HeapArena arena{account};
  model::Weights weights;
  int polls = 0;
};

// `change` is done to the first layer.
template <class Change>
void refused(const char* words, Change change) {
  SpecWriter::File file;
  Node::Dict tree = spec(file);
  change(std::get<Node::Dict>(std::get<Node::List>(tree["layers"].value)[0].value));
  CHECK_THROWS_WITH_AS(Loaded(file.bytes, tree), doctest::Contains(words), FormatError);
}

}  // namespace

TEST_CASE("a model is loaded without Python: numbers, resident values, what layers share") {
  SpecWriter::File file;
  const Node::Dict tree = spec(file);
  const Loaded loaded(file.bytes, tree);
  const model::Weights& weights = loaded.weights;
  REQUIRE(weights.layers.size() == 2);
  CHECK(weights.head.linear.weight.planes == weights.embed.planes);  // no head: tied
  CHECK(loaded.polls == 2 + 2 * (7 + 1 + 3 + 1));                    // a time for each tensor
  const auto& first = std::get<ops::Attention>(weights.layers[0].mixer);
  const auto& second = std::get<ops::Attention>(weights.layers[1].mixer);
  CHECK(first.n_heads == 4);
  CHECK(first.eps == 1e-5f);
  CHECK(first.inv_freq == second.inv_freq);
  CHECK(first.inv_freq[1] == 0.45f);
  const auto& layers = std::get<Node::List>(tree.at("layers").value);
  const auto stored = layers[1].at("attention").at("k").at("weight").as<model::TensorRef>("k");
  CHECK(stored.nbytes == 16 * kModel * sizeof(float));
  CHECK(std::memcmp(second.k.weight.planes[0], &file.bytes[stored.offset], stored.nbytes) == 0);
  CHECK(std::get<ops::GatedFfn>(weights.layers[1].ffn).down.in() == 16);
}

TEST_CASE("what a spec gets wrong is refused by its name") {
  const auto attention = [](Node::Dict& layer) -> Node::Dict& {
    return std::get<Node::Dict>(layer["attention"].value);
  };
  refused("expected a known mixer, found retention (layer 0)",
          [](Node::Dict& layer) { layer["mixer"] = {std::string("retention")}; });
  refused("expected a known network, found sparse (layer 0)",
          [](Node::Dict& layer) { layer["ffn"] = {std::string("sparse")}; });
  refused("q: expected a part of that name, found none (layer 0)",
          [&](Node::Dict& layer) { attention(layer).erase("q"); });
  refused("n_heads: expected an integer, found a text",
          [&](Node::Dict& layer) { attention(layer)["n_heads"] = {std::string("4")}; });
  refused("tensor: expected a dict, found a truth value",
          [](Node::Dict& layer) { layer["ffn_norm"] = {true}; });
  refused("k: expected (24, 32), found (16, 32) (tensor k)",
          [&](Node::Dict& layer) { attention(layer)["n_kv_heads"] = {int64_t(3)}; });
  refused("an even rotary width up to 8, found 5 (layer 0)",
          [&](Node::Dict& layer) { attention(layer)["rotary_dim"] = {int64_t(5)}; });
  refused("up: expected (16, 32), found (32, 32)", [&](Node::Dict& layer) {
    std::get<Node::Dict>(layer["dense"].value)["up"] = attention(layer)["q"];
  });
}
