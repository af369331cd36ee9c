#include <utility>

#include "base/error.h"
#include "bindings/compute.h"

namespace moeflux::bindings {

ops::Precision precision_of(const std::string& name) {
  static constexpr std::pair<const char*, ops::Precision> known[] = {
      {"float32", ops::Precision::float32},
      {"bfloat16", ops::Precision::bfloat16},
      {"int8", ops::Precision::int8}};
  for (const auto& [text, precision] : known)
    if (name == text) return precision;
  throw FormatError("[bindings] expected precision float32, bfloat16 or int8, found ", name);
}

}  // namespace moeflux::bindings
