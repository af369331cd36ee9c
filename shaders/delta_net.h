// What the kernels of the gated delta net share.
#pragma once
#include "common.h"

// Key dimension of a head.
/// @default 128
constant uint Dk [[function_constant(0)]];
