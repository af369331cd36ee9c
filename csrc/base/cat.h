// One text of many parts: strings as they are, numbers as std::to_string writes them.
#pragma once
#include <string>
#include <type_traits>

namespace moeflux {

template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string all;
  const auto add = [&all]<class Part>(const Part& part) {
    static_assert(!std::is_same_v<Part, char>, "a letter or a number?");
    if constexpr (std::is_arithmetic_v<Part>)
      all += std::to_string(part);
    else
      all.append(part);  // += would take an enum for a letter
  };
  (add(parts), ...);
  return all;
}

}  // namespace moeflux
