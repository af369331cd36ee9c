// SpecWriter: a visitor of fields() that writes a spec: random values for all that a part is made
// of, into the bytes of a file. For tests only.
#pragma once
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string_view>

#include "model/node.h"
#include "ops/mixer.h"

class SpecWriter {
 public:
  using Node = moeflux::model::Node;
  struct File {
    uint32_t index = 0;
    std::vector<std::byte> bytes = {};
    std::mt19937 random{7};

    moeflux::model::TensorRef tensor(std::string_view name, uint64_t count, float scale,
                                     float shift) {
      const uint64_t offset = bytes.size(), nbytes = count * sizeof(float);
      bytes.resize(offset + nbytes);
      for (uint64_t at = offset; at < bytes.size(); at += sizeof(float)) {
        const float drawn = static_cast<float>(random()) / 4294967296.0f * 2 - 1;
        const float value = drawn * scale + shift;
        std::memcpy(&bytes[at], &value, sizeof value);
      }
      return {std::string(name), index, offset, nbytes, moeflux::quant::DType::f32};
    }
  };
  SpecWriter(File& file, uint32_t d_model) : d_model(d_model), file_(file) {}

  void number(const char* name, bool value) { dict[name] = {value}; }
  void number(const char* name, float value) { dict[name] = {double(value)}; }
  void number(const char* name, uint32_t value) { dict[name] = {int64_t(value)}; }
  void choice(const char* name, auto value, const auto& names) {
    dict.emplace(name, Node{std::string(names[static_cast<size_t>(value)])});
  }
  void vector(std::string_view name, const float*, uint64_t count, bool = false) {
    static const std::set<std::string_view> kBeyondDevices = {
        "sinks",       "selection_bias",  "expert_scale", "post_norm",     "router_norm",
        "shared_norm", "shared_out_norm", "routed_norm",  "combined_norm", "layer_scale"};
    if (kBeyondDevices.contains(name)) return;
    Node::Dict vector;
    if (name == "inv_freq") {
      Node::List list;
      for (uint64_t i = 0; i < count; ++i) list.push_back({0.9 / double(i + 1)});
      dict.emplace(name, Node{std::move(list)});
      return;
    }
    const bool is_norm = name.ends_with("norm");
    vector["tensor"] = {file_.tensor(name, count, is_norm ? 0.1f : 1, is_norm ? 1 : 0)};
    vector["count"] = {int64_t(count)};
    vector["add"] = {0.0};
    vector["mul"] = {1.0};
    dict.emplace(name, Node{std::move(vector)});
  }
  void sliced(std::string_view name, const float* data, const moeflux::ops::Slices& slices) {
    vector(name, data, slices.count());
  }
  void matrix(const char* name, const moeflux::ops::Linear&, uint64_t out, uint64_t in,
              bool = false) {
    Node::Dict matrix = shape(out, in, "f32", 0, "F32");
    matrix["weight"] = {file_.tensor(name, out * in, 2 / std::sqrt(static_cast<float>(in)), 0)};
    dict[name] = {std::move(matrix)};
  }
  // A part of its own, as dict `key`.
  void part(const char* key, auto part) {
    SpecWriter inner(file_, d_model);
    part.fields(inner);
    dict[key] = {std::move(inner.dict)};
  }
  static Node::Dict shape(uint64_t out, uint64_t in, const char* format, uint32_t group,
                          const char* dtype) {
    return {{"out", {int64_t(out)}},
            {"in", {int64_t(in)}},
            {"format", {std::string(format)}},
            {"group", {int64_t(group)}},
            {"dtype", {std::string(dtype)}}};
  }

  const uint32_t d_model;
  Node::Dict dict;

 private:
  File& file_;
};
