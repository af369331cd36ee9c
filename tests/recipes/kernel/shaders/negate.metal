// The other sign.
#include "common.h"

// out = -x; x, out (n). A thread per element.
/// @elements x n
/// @elements out n
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n
/// @require grid >= n
kernel void negate_f32(device const float* x [[buffer(0)]],
                       device float* out [[buffer(1)]],
                       constant uint& n [[buffer(2)]],
                       uint i [[thread_position_in_grid]]) {
  if (i >= n) return;
  out[i] = -x[i];
}
