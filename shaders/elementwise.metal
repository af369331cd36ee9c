// Sums and gates, one thread per element.
#include "common.h"

// out = a + b; a, b, out (dim). A thread per element.
/// @elements a dim
/// @elements b dim
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
kernel void residual_add(device const float* a [[buffer(0)]],
                         device const float* b [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant uint& dim [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  out[i] = a[i] + b[i];
}

// x *= sigmoid(gate); x, gate (dim). A thread per element.
/// @elements x dim
/// @elements gate dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
kernel void sigmoid_gate(device float* x [[buffer(0)]],
                         device const float* gate [[buffer(1)]],
                         constant uint& dim [[buffer(2)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  x[i] *= sigmoid(gate[i]);
}

// out = silu(gate) * up; gate, up, out (dim). A thread per element.
/// @elements gate dim
/// @elements up dim
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
kernel void swiglu_fused(device const float* gate [[buffer(0)]],
                         device const float* up [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant uint& dim [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  out[i] = silu(gate[i]) * up[i];
}

// out = silu(gate) * up; gate, up, out (K, dim). A thread per element of the K rows.
/// @elements gate K * dim
/// @elements up K * dim
/// @elements out K * dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid K * dim
/// @require grid >= K * dim
kernel void swiglu_fused_batched(device const float* gate [[buffer(0)]],
                                 device const float* up [[buffer(1)]],
                                 device float* out [[buffer(2)]],
                                 constant uint& dim [[buffer(3)]],
                                 constant uint& K [[buffer(4)]],
                                 uint i [[thread_position_in_grid]]) {
  if (i >= K * dim) return;
  out[i] = silu(gate[i]) * up[i];
}

// out = silu(gate) * up; gate, up, out (dim), 16-byte aligned. A thread per four elements.
/// @elements gate dim
/// @elements up dim
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim / 4
/// @require dim % 4 == 0
/// @require grid >= dim / 4
kernel void swiglu_fused_vec4(device const float4* gate [[buffer(0)]],
                              device const float4* up [[buffer(1)]],
                              device float4* out [[buffer(2)]],
                              constant uint& dim [[buffer(3)]],
                              uint i [[thread_position_in_grid]]) {
  if (i >= dim / 4) return;
  const float4 g = gate[i];
  out[i] = float4(silu(g.x), silu(g.y), silu(g.z), silu(g.w)) * up[i];
}
