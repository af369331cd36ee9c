// What a dispatch reads and writes, told by its kernel's binding table, and what that shows: reads
// and writes out of bounds, and hazards: two dispatches that touch one range of memory with nothing
// to order them, at least one of them writing.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "program.h"

namespace metal_standin {

struct Access {
  const char* name;  // of the binding
  const std::byte *begin, *end;
  bool writes;
};

// Of the buffers of a dispatch, by the contents of memory as it is now. Throws std::runtime_error
// when one reaches past the end of its buffer.
std::vector<Access> accesses(const Program::Dispatch& dispatch);

// The first hazard of a group as a sentence; empty: none.
std::string find_hazard(std::span<const Program::Dispatch> group);

}  // namespace metal_standin
