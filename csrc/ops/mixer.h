// Mixer: the part of a layer that looks at other positions. Each is described once, by a struct in
// mixers/: kKind is its name in a spec, fields() are what it is made of (linear.h), fault() is what
// its numbers must be and are not ("" where they are), cache() and state_floats() are what a session
// keeps for it: keys and values by position, and a state, zeros at first. Its mix() has a form for
// CpuOps and one for GpuOps.
#pragma once
#include <variant>

#include "ops/mixers/attention.h"
#include "ops/mixers/delta_net.h"
#include "ops/mixers/gated_convolution.h"
#include "ops/mixers/mamba2.h"
#include "ops/mixers/mla.h"
#include "ops/mixers/nothing.h"

namespace moeflux::ops {

using Mixer = std::variant<Attention, DeltaNet, Mla, GatedConvolution, Mamba2, Nothing>;

}  // namespace moeflux::ops
