// The checks that every dispatch passes before a device sees it, whichever device that is.
#pragma once
#include <optional>

#include "device/device.h"

namespace moeflux::device {

struct Geometry {
  Size grid, threadgroup;
};

// Throws FormatError that names kernel, argument, expected and found: wrong count, a scalar where a
// buffer is expected, a buffer too small for what the scalars say, an illegal threadgroup size, an
// empty or overflowing grid, a requirement of the kernel that does not hold. Contents of buffers
// are read only where a size depends on them (w_offsets).
void check_dispatch(const Pipeline& pipeline, const Limits& limits, std::span<const Argument> args,
                    const Geometry& geometry);

// What the binding table gives for a call that leaves its geometry out, or only its grid. Throws
// FormatError where the kernel has no default, or none for these scalars.
Geometry default_geometry(const Pipeline& pipeline, std::span<const Argument> args,
                          std::optional<Size> threadgroup = {});

}  // namespace moeflux::device
