// What the kernels of the gated delta net share, and Mamba-2's.
#pragma once
#include "common.h"

// Key dimension of a head; columns of a head's state.
/// @default 128
constant uint Dk [[function_constant(0)]];
