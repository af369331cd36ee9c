// What a network makes of rows of gate and of up, where no product does it.
#include "activation.h"
#include "arguments.h"

// out = activation(gate, up) as Activation and Gated say; gate (where there is one), up, out (n). A
// thread per element; out may be gate or up.
/// @elements gate Gated * n
/// @elements up n
/// @elements out n
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n
/// @require Activation <= 3 && Gated <= 1 && (Gated == 1 || Activation != 1)
/// @require grid >= n
kernel void activate_f32(device const float* gate [[buffer(0)]],
                         device const float* up [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant ActivateArgs& args [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= args.n) return;
  out[i] = activation(Gated != 0 ? gate[i] : 0.0f, up[i],
                      activation_numbers(args.limit, args.alpha, args.up_add));
}
