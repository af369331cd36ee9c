// The text of the shader library, generated at build time by tools/msl: all of shaders/*.metal with
// their includes resolved, as one source that a device can compile without any file.
#pragma once
#include <string_view>

namespace moeflux::device {

std::string_view shader_source();

}  // namespace moeflux::device
