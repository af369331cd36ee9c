#include "model/node.h"

namespace moeflux::model {

void Node::refuse(std::string_view name, size_t expected) const {
  constexpr const char* kKinds[] = {
      "a truth value", "an integer", "a number", "a text",
      "a list",        "a dict",     "a tensor", "a range of each expert"};
  throw FormatError("[model::Node] ", name, ": expected ", kKinds[expected], ", found ",
                    kKinds[value.index()]);
}

const Node* Node::find(std::string_view key) const {
  const Dict& dict = as<Dict>(key);
  const auto found = dict.find(key);
  return found == dict.end() ? nullptr : &found->second;
}

const Node& Node::at(std::string_view key) const {
  if (const Node* found = find(key)) return *found;
  throw FormatError("[model::Node] ", key, ": expected a value, found none");
}

void Node::get(std::string_view name, float& to) const {
  const auto* integer = std::get_if<int64_t>(&value);
  to = static_cast<float>(integer ? static_cast<double>(*integer) : as<double>(name));
}

void Node::get(std::string_view name, uint32_t& to) const {
  const int64_t found = as<int64_t>(name);
  if (found < 0 || found > UINT32_MAX)
    throw FormatError("[model::Node] ", name, ": expected integers below 2^32, found ", found);
  to = static_cast<uint32_t>(found);
}

}  // namespace moeflux::model
