// What a gated network makes of a row of gate and of up. A family adds a value, not a kernel.
#pragma once
#include "common.h"

// 0: silu(gate) * up. 1: g * sigmoid(alpha * g) * (u + up_add), g = min(gate, limit), u = up within
// +-limit.
/// @default 0
constant uint Activation [[function_constant(8)]];

// 0: there is no gate, and up alone goes through it: silu(up).
/// @default 1
constant uint Gated [[function_constant(9)]];

struct ActivationNumbers {
  float limit, alpha, up_add;
};

inline float activation(float gate, float up, ActivationNumbers numbers) {
  if (Gated == 0) return silu(up);
  if (Activation == 0) return silu(gate) * up;
  const float g = min(gate, numbers.limit);
  const float u = max(min(up, numbers.limit), -numbers.limit);
  return g * sigmoid(numbers.alpha * g) * (u + numbers.up_add);
}
