// What a gated network makes of a row of gate and of up. A family adds a value, not a kernel.
#pragma once
#include "common.h"

// 0: silu(gate) * up. 1: g * sigmoid(alpha * g) * (u + up_add), g = min(gate, limit), u = up within
// +-limit. 2: gelu(gate) * up, in its form with tanh. 3: max(gate, 0)^2 * up.
/// @default 0
constant uint Activation [[function_constant(8)]];

// 0: there is no gate, and up alone goes through it, which of 1 is not done.
/// @default 1
constant uint Gated [[function_constant(9)]];

struct ActivationNumbers {
  float limit, alpha, up_add;
};

inline ActivationNumbers activation_numbers(float limit, float alpha, float up_add) {
  ActivationNumbers numbers;
  numbers.limit = limit;
  numbers.alpha = alpha;
  numbers.up_add = up_add;
  return numbers;
}

// x / 2 * (1 + tanh(y)) is x * sigmoid(2 y), y = sqrt(2 / pi) * (x + 0.044715 x^3). What is no number
// stays none.
inline float unit(float x) {
  if (Activation == 2) return x * sigmoid(1.5957691216057308f * fma(0.044715f * x * x, x, x));
  if (Activation == 3) return x < 0.0f ? 0.0f : x * x;
  return silu(x);
}

inline float at_most(float x, float limit) {
  return x > limit ? limit : x;
}

inline float activation(float gate, float up, ActivationNumbers numbers) {
  if (Gated == 0) return unit(up);
  if (Activation != 1) return unit(gate) * up;
  const float g = at_most(gate, numbers.limit);
  const float u = -at_most(-at_most(up, numbers.limit), numbers.limit);
  return g * sigmoid(numbers.alpha * g) * (u + numbers.up_add);
}
