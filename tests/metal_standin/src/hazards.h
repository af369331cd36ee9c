// Hazards: two dispatches that touch one range of memory with nothing to order them, at least one
// of them writing. Which bindings a kernel writes, and how far they reach, is told by its binding
// table.
#pragma once
#include <span>
#include <string>

#include "program.h"

namespace metal_standin {

// The first hazard of a group as a sentence; empty: none.
std::string find_hazard(std::span<const Program::Dispatch> group);

}  // namespace metal_standin
