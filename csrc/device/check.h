// The checks that every dispatch passes before a device sees it, whichever device that is.
#pragma once
#include <optional>
#include <vector>

#include "device/device.h"

namespace moeflux::device {

struct Geometry {
  Size grid, threadgroup;
};

// Throws FormatError that names kernel, argument, expected and found: wrong count, a scalar where a
// buffer is expected, a buffer too small for what the scalars say, an illegal threadgroup size, an
// empty or overflowing grid, a requirement of the kernel that does not hold. Contents of buffers
// are read only where a size depends on them (w_offsets). Of a kernel of an OwnLibrary: geometry,
// and number and offsets of arguments, alone.
void check_dispatch(const Pipeline& pipeline, const Limits& limits, std::span<const Argument> args,
                    const Geometry& geometry);

// By argument: how many bytes from its offset on the kernel may read or write; 0 for scalars and
// where there is no buffer. Of a kernel whose sizes depend on contents, which an earlier dispatch
// may still change: all up to the buffer's end. REQUIRES: check_dispatch has passed.
std::vector<uint64_t> touched_bytes(const Pipeline& pipeline, std::span<const Argument> args,
                                    const Geometry& geometry);

// What the binding table gives for a call that leaves its geometry out, or only its grid. Throws
// FormatError where the kernel has no default, or none for these scalars.
Geometry default_geometry(const Pipeline& pipeline, std::span<const Argument> args,
                          std::optional<Size> threadgroup = {});

}  // namespace moeflux::device
