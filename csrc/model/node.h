// Node: a spec as a tree of values, whoever made it: bindings of what moeflux.families builds, a
// test. Its dicts are those of spec.py.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/format.h"
#include "store/layer_experts.h"

namespace moeflux::model {

struct TensorRef {
  std::string name;  // for messages
  uint32_t file = 0;
  uint64_t offset = 0, nbytes = 0;
  quant::DType dtype = quant::DType::f32;  // of a vector's numbers
};

struct Node {
  using List = std::vector<Node>;
  using Dict = std::map<std::string, Node, std::less<>>;
  using Value =
      std::variant<bool, int64_t, double, std::string, List, Dict, TensorRef, store::Part>;
  Value value;

  // An entry of a dict; null: it has none of the name. at() throws FormatError then.
  const Node* find(std::string_view key) const;
  const Node& at(std::string_view key) const;
  // What it holds; `name` is for messages. Throw FormatError where it is something else.
  template <class T>
  const T& as(std::string_view name) const {
    if (const T* found = std::get_if<T>(&value)) return *found;
    refuse(name, Value(T()).index());
  }
  void get(std::string_view name, bool& to) const { to = as<bool>(name); }
  void get(std::string_view name, float& to) const;
  void get(std::string_view name, uint32_t& to) const;

 private:
  [[noreturn]] void refuse(std::string_view name, size_t expected) const;
};

}  // namespace moeflux::model
